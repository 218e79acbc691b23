#!/usr/bin/env bash
# deploy/dev.sh starts what it says, deploy/try.sh finds what it promises there, Prometheus scrapes every server, and after
# a stop nothing is left: no process, no file.
#
# It takes half a minute, most of it for a session to become due for the archive, and has free ports of its own.
# $COLLOQUY_TEST_BIN names another binary than target/debug/colloquy.
set -euo pipefail

start_seconds_max=600
scrape_seconds_max=45
stop_seconds_max=30
servers=3

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-dev-test.XXXXXX")
mkdir "$dir/tmp"

# Everything that dev.sh starts has this folder in its environment.
left() { grep -l -a -F "TMPDIR=$dir/tmp" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3; }
dev=
finish() {
  kill -TERM "$dev" 2>/dev/null && wait "$dev"
  left | xargs -r kill -KILL 2>/dev/null
  rm -rf "$dir"
}
trap 'finish || true' EXIT

fail() {
  echo "dev: $1" >&2
  cat "$dir/log" >&2
  exit 1
}

wait_for() {
  local tenths=$(($1 * 10))
  shift
  until "$@"; do
    ((tenths-- > 0)) || return 1
    sleep 0.1
  done
}

ports=$(python3 - <<'PY'
import socket
free = [socket.socket() for _ in range(2)]
for one in free:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in free))
PY
)
url=http://127.0.0.1:${ports% *}
prometheus=http://127.0.0.1:${ports#* }

TMPDIR=$dir/tmp COLLOQUY_DEV_PORTS=$ports "$root/deploy/dev.sh" >"$dir/log" 2>&1 &
dev=$!
started_or_ended() { grep -q '^deploy/try.sh' "$dir/log" || ! kill -0 "$dev" 2>/dev/null; }
wait_for "$start_seconds_max" started_or_ended || fail "deploy/dev.sh did not start within $start_seconds_max s"
grep -q '^deploy/try.sh' "$dir/log" || fail "deploy/dev.sh ended"

"$root/deploy/try.sh" "$url" || fail "deploy/try.sh was surprised"

up() {
  local answer
  answer=$(curl --silent --max-time 5 --get --data-urlencode 'query=count(up{job="colloquy"} == 1)' "$prometheus/api/v1/query")
  grep -qF "\"$servers\"" <<<"$answer"
}
wait_for "$scrape_seconds_max" up || fail "Prometheus did not scrape $servers servers within $scrape_seconds_max s"

kill -TERM "$dev"
ended() { ! kill -0 "$dev" 2>/dev/null; }
wait_for "$stop_seconds_max" ended || fail "deploy/dev.sh was not gone within $stop_seconds_max s"
status=0
wait "$dev" || status=$?
((status == 0)) || fail "deploy/dev.sh ended with $status"
# What engines leave behind is taken away by a process of its own.
nothing_left() { [[ -z $(left) ]]; }
wait_for "$stop_seconds_max" nothing_left || fail "deploy/dev.sh left processes: $(left | xargs -r ps -o pid=,args= -p)"
files=$(ls -A "$dir/tmp")
[[ -z $files ]] || fail "deploy/dev.sh left files: $files"
echo "dev: it starts, works, and leaves nothing"
