#!/usr/bin/env bash
# Schemathesis against the server at $COLLOQUY_URL. The same $SEED sends the same requests, but for ids that the server
# made and schemathesis sends back. $MAX_EXAMPLES, for a longer look, replaces what schemathesis.toml says. Arguments
# go to `schemathesis run`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
seed=${SEED:-20260901}
echo "schemathesis with SEED=$seed against $COLLOQUY_URL"
PYTHONDONTWRITEBYTECODE=1 exec ../tools.sh schemathesis --config-file schemathesis.toml run \
  --seed "$seed" ${MAX_EXAMPLES:+--max-examples "$MAX_EXAMPLES"} "$@" "$COLLOQUY_URL/openapi.json"
