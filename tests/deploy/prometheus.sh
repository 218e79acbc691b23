#!/usr/bin/env bash
# The alerts and the dashboard of deploy/: that Prometheus takes them, that each alert is tested, and that all they look
# at is there in what a real server shows at /metrics. prometheus.py says the rest.
#
# Run it with tests/tools.sh in front. $COLLOQUY_TEST_BIN names another binary than target/debug/colloquy.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

fail() {
  echo "prometheus: $1" >&2
  exit 1
}

for program in promtool prometheus; do
  command -v "$program" >/dev/null || fail "$program is missing: run 'make packages'"
done
[[ -x .engines/redis-server ]] || fail ".engines/redis-server is missing: run 'make engines'"
named=${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-target}/debug/colloquy}
[[ -x $named ]] || fail "$named is missing: run 'cargo build', or name a binary in COLLOQUY_TEST_BIN"
binary=$(realpath "$named")

# Says what a command printed only when it failed.
quietly() {
  local said
  said=$("$@" 2>&1) || fail "$* said:"$'\n'"$said"
}

quietly promtool check config deploy/prometheus/prometheus.yml
quietly promtool check rules deploy/prometheus/alerts.yml
tests=()
for file in deploy/prometheus/*.test.yml; do
  quietly promtool test rules "$file" &
  tests+=($!)
done
status=0
COLLOQUY_TEST_BIN=$binary PYTHONDONTWRITEBYTECODE=1 python3 tests/deploy/prometheus.py || status=1
for test in "${tests[@]}"; do
  wait "$test" || status=1
done
if ((status == 0)); then echo "prometheus: the rules pass their tests"; fi
exit "$status"
