#!/bin/sh
# Installs what `make bench` measures beside the gateway and the queue: LiteLLM and procrastinate
# from PyPI, graphile-worker from npm. Nothing of it is part of the product or runs elsewhere.
#
# usage: install.sh [FOLDER]      FOLDER is .dev/peers of this repository
#
# Afterwards FOLDER/bin holds the Python programs and FOLDER/node_modules the packages of npm.
# Running it again changes nothing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../.dev/peers}

say() { printf 'bench-peers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing; run: apt install python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is older than 3.11, for which the versions are pinned"
python3 -c 'import ensurepip' 2>/dev/null || fail "python3 cannot make a venv; run: apt install python3-venv"
command -v npm >/dev/null || fail "npm is missing; run: apt install npm"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
stamp=$folder/installed
wanted=$(cat "$here/requirements.txt" "$here/package-lock.json" | sha256sum)

if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    say "installing into $folder (300 MB of packages)"
    rm -f "$stamp"
    [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --require-hashes --requirement "$here/requirements.txt" ||
        fail "pip could not install LiteLLM and procrastinate; its words stand above"
    cp "$here/package.json" "$here/package-lock.json" "$folder/"
    (cd "$folder" && npm ci --silent --ignore-scripts --no-audit --no-fund) ||
        fail "npm could not install graphile-worker; its words stand above"
    printf '%s\n' "$wanted" >"$stamp"
fi

say "peers: $folder/bin/litellm, $folder/bin/python, $folder/node_modules/graphile-worker"
