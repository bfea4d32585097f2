#!/usr/bin/env bash
# The talk's approach, for comparison: watch ExternalSecrets, and write to Vault what is missing.
# Needs KUBECONFIG, VAULT_ADDR and VAULT_TOKEN. external-secrets brings the value at its next refresh.
set -uo pipefail

columns='{.metadata.annotations.create}|{.spec.data[0].remoteRef.key}|{.spec.data[0].remoteRef.property}'
columns+='|{.status.conditions[?(@.type=="Ready")].reason}{"\n"}'

kubectl get externalsecrets --all-namespaces --watch --output "jsonpath=$columns" |
  while IFS='|' read -r create key property reason; do
    [[ $create == true && ($reason == '' || $reason == SecretSyncedError) ]] || continue
    # by its field: of a deleted secret, `vault kv get` shows the metadata and is content
    vault kv get -field="$property" "secret/$key" >/dev/null 2>&1 && continue
    vault kv put "secret/$key" "$property=$(openssl rand -hex 32)" >/dev/null
  done
