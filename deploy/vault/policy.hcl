# The Vault policy of vaultsync, as printed by: vaultsync policy --mount secret --mount team/kv --mount kv1=v1
# with VAULTSYNC_SEED_PATHS=*/{namespace}/**,*/{namespace}
# It does not allow to read a value: no path grants read on data. Print your own for other mounts and settings.

# The event stream (community 1.13 to 1.15, Enterprise from 1.16). Vault sends a token the events of those paths only
# to which it may `subscribe` (from 1.15). Vault before 1.15, and OpenBao, do not know that word: for these print a
# policy with VAULTSYNC_SOURCE=audit or poll.
path "sys/events/subscribe/*" {
  capabilities = ["read"]
}

# KV v2: create a missing value and add a missing key, always with check-and-set.
# Vault requires `update` for the version after a deleted one. `update` also allows to replace a live version; the
# check-and-set of vaultsync's writes prevents that, or for all clients Vault's option cas_required, such as by
# `vault write secret/config cas_required=true`.
path "secret/data/*" {
  capabilities          = ["create", "update", "patch", "subscribe"]
  subscribe_event_types = ["*"]
}
# the names of a secret's keys, its version and its time, without values
path "secret/subkeys/*" {
  capabilities = ["read"]
}
# the names under a folder, for dataFrom.find; changes of custom metadata, for metadataPolicy: Fetch
# `patch`: the ownership metadata, by which vaultsync recognizes the paths that it created
path "secret/metadata/*" {
  capabilities          = ["patch", "list", "subscribe"]
  subscribe_event_types = ["*"]
}

path "team/kv/data/*" {
  capabilities          = ["create", "update", "patch", "subscribe"]
  subscribe_event_types = ["*"]
}
path "team/kv/subkeys/*" {
  capabilities = ["read"]
}
path "team/kv/metadata/*" {
  capabilities          = ["patch", "list", "subscribe"]
  subscribe_event_types = ["*"]
}

# KV v1 has no check-and-set: without `update` Vault itself refuses to replace a value.
# KV v1 shows the existing paths by `list` alone: all other requests read values.
path "kv1/*" {
  capabilities          = ["create", "list", "subscribe"]
  subscribe_event_types = ["*"]
}

# Vault's own password policies, for rules such as {format: policy, name: ops}; leave it out if no rule uses one.
path "sys/policies/password/+/generate" {
  capabilities = ["read"]
}

# The token itself: look it up, renew it, and revoke it when vaultsync ends, if vaultsync has logged in.
# (Vault's policy "default", which most tokens have, grants these too.)
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
# The capabilities of the token, for `vaultsync check`; "default" grants this, too.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
