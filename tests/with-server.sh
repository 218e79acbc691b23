#!/usr/bin/env bash
# Runs a command against a server of its own: tests/with-server.sh CMD ARG...
#
# The server gets a free port and a new store: in a temporary folder, or with COLLOQUY_TEST_STORE=mongodb on a replica set
# that the integration tests lend, which must have been built. CMD finds the server at $COLLOQUY_URL. Afterwards the
# server is told to stop and must exit 0. The status is CMD's, or 1 when only the server failed.
# $COLLOQUY_TEST_BIN names another binary than target/debug/colloquy.
set -euo pipefail

start_seconds_max=30
lend_seconds_max=300
stop_seconds_max=15

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy.XXXXXX")
: >"$dir/log"

server=
trap 'kill -KILL "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT

show_log() {
  echo "--- the server's last words:" >&2
  tail -n 40 "$dir/log" >&2
}

# Polls until the server is gone or the condition holds; fails when neither happened in time.
wait_until() {
  local tenths=$(($1 * 10))
  shift
  while ! "$@" && kill -0 "$server" 2>/dev/null; do
    ((tenths-- > 0)) || return 1
    sleep 0.1
  done
}

fail() {
  echo "$1" >&2
  show_log
  exit 1
}

case ${COLLOQUY_TEST_STORE:-sqlite} in
  sqlite) store=sqlite:$dir/colloquy.db ;;
  mongodb)
    # What is lent is taken back when this end of the pipe is closed, however this script ends.
    exec 9> >(cd "$root" && COLLOQUY_TEST_LEND=mongodb COLLOQUY_TEST_LEND_TO=$dir/lent \
      exec cargo test --quiet --locked --test it -- \
      --exact --ignored engines::lend::engines_for_a_script >>"$dir/log" 2>&1)
    server=$!
    wait_until "$lend_seconds_max" test -s "$dir/lent" || true
    server=
    [[ -s $dir/lent ]] || fail "no database was lent within ${lend_seconds_max} s"
    store=$(sed -n 's/^mongodb //p' "$dir/lent")
    "$binary" init --store "$store" >>"$dir/log" 2>&1 || fail "the database could not be initialised"
    ;;
  *) fail "COLLOQUY_TEST_STORE=$COLLOQUY_TEST_STORE is neither sqlite nor mongodb" ;;
esac

(
  # Settings of the person who runs this must not reach the server under test.
  for name in "${!COLLOQUY_@}"; do unset "$name"; done
  cd "$dir"
  exec "$binary" serve --listen 127.0.0.1:0 --store "$store" --address-file "$dir/address" \
    --set archive_runs_max=64
) </dev/null >>"$dir/log" 2>&1 9>&- &
server=$!

wait_until "$start_seconds_max" test -s "$dir/address" || true
[[ -s $dir/address ]] || fail "the server was not ready within ${start_seconds_max} s, or ended"
COLLOQUY_URL=$(<"$dir/address")
export COLLOQUY_URL

status=0
"$@" 9>&- || status=$?

kill -TERM "$server" 2>/dev/null || true
wait_until "$stop_seconds_max" false || kill -KILL "$server" 2>/dev/null || true
server_status=0
wait "$server" || server_status=$?
server=

if ((server_status != 0)); then echo "the server ended with status $server_status instead of 0" >&2; fi
if ((status != 0 || server_status != 0)); then show_log; fi
if ((status == 0 && server_status != 0)); then status=1; fi
exit "$status"
