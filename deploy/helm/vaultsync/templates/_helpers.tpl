{{- define "vaultsync.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Leaves room for -dashboard within the 63 characters of a Service's name. */}}
{{- define "vaultsync.fullname" -}}
{{- $name := include "vaultsync.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "vaultsync.serviceAccountName" -}}
{{- default (ternary (include "vaultsync.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "vaultsync.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vaultsync.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "vaultsync.labels" -}}
{{ include "vaultsync.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* The port of an address to listen on: 8080 for 0.0.0.0:8080 and udp:[::]:8080, none for unix:/run/audit. */}}
{{- define "vaultsync.port" -}}
{{- regexFind ":[0-9]+$" . | trimPrefix ":" -}}
{{- end -}}

{{/* The transport of an address to listen on: UDP for udp:0.0.0.0:8220, else TCP. */}}
{{- define "vaultsync.protocol" -}}
{{- ternary "UDP" "TCP" (hasPrefix "udp:" .) -}}
{{- end -}}

{{/* Not empty if only the pod itself reaches an address to listen on, such as tcp:127.0.0.1:8220. */}}
{{- define "vaultsync.isLoopback" -}}
{{- regexFind "^((udp|tcp):)?(127\\.[0-9.]+|localhost|\\[?::1\\]?):[0-9]+$" . -}}
{{- end -}}

{{- define "vaultsync.image" -}}
{{- with .Values.image -}}
{{- ternary (printf "%s@%s" .repository .digest) (printf "%s:%s" .repository (default $.Chart.AppVersion .tag)) (ne .digest "") -}}
{{- end -}}
{{- end -}}

{{/* The rights of vaultsync in a watched namespace; deploy/base/clusterrole.yaml has the purpose of each. */}}
{{- define "vaultsync.rulesInside" -}}
- apiGroups: [external-secrets.io]
  resources: [externalsecrets, secretstores, pushsecrets]
  verbs: [list, watch]
- apiGroups: [external-secrets.io]
  resources: [externalsecrets, externalsecrets/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "vaultsync.subjects" -}}
- kind: ServiceAccount
  name: {{ include "vaultsync.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}
