#!/usr/bin/env bash
# Both generated clients, each through one conversation with the server at $COLLOQUY_URL.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
for client in typescript python; do
  echo "== generated client: $client"
  ../tools.sh "$client/check.sh"
done
