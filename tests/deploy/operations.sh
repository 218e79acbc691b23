#!/usr/bin/env bash
# docs/OPERATIONS.md is what operators act on at night, so it must be true of this code: see operations.py.
# $COLLOQUY_TEST_BIN names another binary than target/debug/colloquy.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")
if [[ ! -x $binary ]]; then
  echo "operations: $binary is missing: run 'cargo build'" >&2
  exit 1
fi
COLLOQUY_TEST_BIN=$binary PYTHONDONTWRITEBYTECODE=1 exec ../tools.sh python3 operations.py
