#!/usr/bin/env bash
# Generates a Python client from openapi.json, compiles all of it, and runs roundtrip.py with it at $COLLOQUY_URL.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
rm -rf generated
mkdir generated
# With --fail-on-warning, an operation or a type that the generator can't express fails the check.
openapi-python-client generate --path ../../../openapi/openapi.json --config config.yml --meta none \
  --output-path generated/colloquy_client --fail-on-warning >generated/log || { cat generated/log; exit 1; }
python3 -m compileall -q generated
PYTHONPATH="generated:$PYTHONPATH" python3 roundtrip.py
