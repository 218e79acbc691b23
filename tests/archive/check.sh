#!/usr/bin/env bash
# DuckDB reads an archive and is compared with the API; then an erasure, and a store that is lost: see check.py.
# $COLLOQUY_TEST_BIN names another binary than target/debug/colloquy.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")
COLLOQUY_TEST_BIN=$binary PYTHONDONTWRITEBYTECODE=1 exec ../tools.sh python3 check.py
