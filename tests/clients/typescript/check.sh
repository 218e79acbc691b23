#!/usr/bin/env bash
# Generates TypeScript types from openapi.json, compiles roundtrip.ts against them, and runs it at $COLLOQUY_URL.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
# What has a default may be left out of a request; openapi-typescript would ask for it.
openapi-typescript ../../../openapi/openapi.json --default-non-nullable=false --output generated/colloquy.ts >/dev/null
tsc
node generated/js/roundtrip.js
