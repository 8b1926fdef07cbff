#!/bin/sh
# Makes the secrets of compose.yaml once, in docker/secrets: `sh docker/secrets.sh`. What is there stays.
#
# The folder is for you alone. The files are readable, because compose mounts them with the owner and mode that they
# have here, and the containers run as users of their own.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 0700 secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() {
    if [ ! -s "secrets/$1" ]; then
        printf '%s\n' "$2" >"secrets/$1"
        echo "made secrets/$1"
    fi
    chmod 0644 "secrets/$1"
}
keep secret_key "$(random)"
keep admin_token "$(random)"
keep metrics_token "$(random)"
keep caller_key "gk-$(random)"
keep redis_password "$(random)"
keep store_url "redis://:$(cat secrets/redis_password)@redis:6379/0"
keep postgres_password "$(random)"
keep ledger_url "postgresql://gateway:$(cat secrets/postgres_password)@postgres:5432/gateway"
keep grafana_password "$(random)"
