#!/usr/bin/env bash
# The pinned check tools: installs what is missing, then runs a command with them at hand.
#   tests/tools.sh              install only
#   tests/tools.sh CMD ARG...   install what is missing, then run CMD
#
# Cargo and Python tools go to $COLLOQUY_TEST_TOOLS (default ~/.cache/colloquy/tools), each in a folder named after its
# pin: nothing to clean when a pin moves, and every checkout shares them. Node packages go to node_modules beside
# their package.json, where tsc looks for them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${COLLOQUY_TEST_TOOLS:-$HOME/.cache/colloquy/tools}

# Each install is made beside its place and moved in whole, so that an interrupted one is never taken for done.
begin() {
  echo "installing $1" >&2
  mkdir -p "$tools"
  partial=$(mktemp -d "$tools/partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
}
finish() {
  # Another checkout may have been first; then its copy is as good as ours.
  if [[ -d $1 ]]; then rm -rf "$partial"; else mv "$partial" "$1"; fi
}

machete=$tools/cargo-machete-0.9.2
if [[ ! -d $machete ]]; then
  begin "cargo-machete 0.9.2 (compiles for a minute or two)"
  cargo install --quiet --locked --root "$partial" cargo-machete@0.9.2 >&2
  finish "$machete"
fi

# `--target` needs no virtual environment: Debian's Python has neither ensurepip nor leave to install elsewhere.
# `--no-deps`, because requirements.txt is complete and hashed.
python=$tools/python-$(python3 - "$here/requirements.txt" <<'PY'
import hashlib, pathlib, sys
pins = pathlib.Path(sys.argv[1]).read_bytes()
print("%d.%d-%s" % (*sys.version_info[:2], hashlib.sha256(pins).hexdigest()[:12]))
PY
)
if [[ ! -d $python ]]; then
  begin "Python tools of tests/requirements.txt"
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore \
    --require-hashes --no-deps --only-binary :all: --target "$partial" -r "$here/requirements.txt" >&2
  finish "$python"
fi

node=$here/clients/typescript
if ! cmp -s "$node/package-lock.json" "$node/node_modules/.installed-lock"; then
  echo "installing Node packages of tests/clients/typescript/package-lock.json" >&2
  (cd "$node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  cp "$node/package-lock.json" "$node/node_modules/.installed-lock"
fi

if (($#)); then
  export PATH="$machete/bin:$python/bin:$node/node_modules/.bin:$PATH"
  export PYTHONPATH="$python${PYTHONPATH:+:$PYTHONPATH}"
  exec "$@"
fi
