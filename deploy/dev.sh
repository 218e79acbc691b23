#!/usr/bin/env bash
# The scaled deployment on this machine, to play with: a MongoDB replica set, Redis and an S3 server, which the
# integration tests know how to start, and two servers of colloquy on them, on ports 8080 and 8081 or those that
# COLLOQUY_DEV_PORTS names ("8080 8081"). Everything is kept in a temporary folder, and gone after Ctrl-C.
#
# Run it with `make dev`, which builds what it needs first.
#
# shellcheck disable=SC2329 # `trap` and `wait_for` call what shellcheck sees nobody call.
set -euo pipefail

start_seconds_max=30
lend_seconds_max=600
stop_seconds_max=15

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${CARGO_TARGET_DIR:-$root/target}/debug/colloquy
read -r -a ports <<<"${COLLOQUY_DEV_PORTS:-8080 8081}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-dev.XXXXXX")

# Settings of the person who runs this are for servers of their own.
for name in "${!COLLOQUY_@}"; do unset "$name"; done

servers=()
stop() {
  trap '' INT TERM
  if ((${#servers[@]})); then
    kill -TERM "${servers[@]}" 2>/dev/null || true
    wait_for "$stop_seconds_max" gone "${servers[@]}" || kill -KILL "${servers[@]}" 2>/dev/null || true
  fi
  # The engines are taken back when this end of the pipe is closed.
  exec 9>&-
  wait "${lender:-}" 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 0' INT TERM

gone() {
  local pid
  for pid in "$@"; do
    if kill -0 "$pid" 2>/dev/null; then return 1; fi
  done
}

# Polls until the condition holds; fails when it does not in time.
wait_for() {
  local tenths=$(($1 * 10))
  shift
  until "$@"; do
    ((tenths-- > 0)) || return 1
    sleep 0.1
  done
}

fail() {
  echo "dev: $1" >&2
  tail -n 20 "$dir"/*.log >&2
  exit 1
}

echo "dev: starting MongoDB, Redis and SeaweedFS (the first time, what starts them is compiled: some minutes)"
mkfifo "$dir/end"
(
  trap '' INT
  cd "$root"
  COLLOQUY_TEST_LEND=mongodb,redis,s3 COLLOQUY_TEST_LEND_TO=$dir/lent \
    exec cargo test --quiet --locked --test it -- --exact --ignored engines::lend::engines_for_a_script
) <"$dir/end" >"$dir/engines.log" 2>&1 &
lender=$!
exec 9>"$dir/end"
lent_or_ended() { [[ -s $dir/lent ]] || gone "$lender"; }
wait_for "$lend_seconds_max" lent_or_ended || fail "the engines did not start within $lend_seconds_max s"
[[ -s $dir/lent ]] || fail "the engines did not start"

place() { sed -n "s/^$1 //p" "$dir/lent"; }
export COLLOQUY_STORE COLLOQUY_CACHE
COLLOQUY_STORE=$(place mongodb)
COLLOQUY_CACHE=$(place redis)
"$binary" init >"$dir/init.log" 2>&1 || fail "the database could not be initialised"

for port in "${ports[@]}"; do
  (
    trap '' INT
    exec "$binary" serve --listen "127.0.0.1:$port" --address-file "$dir/$port"
  ) </dev/null >"$dir/server-$port.log" 2>&1 9>&- &
  servers+=($!)
  ready_or_ended() { [[ -s $dir/$port ]] || gone "${servers[-1]}"; }
  wait_for "$start_seconds_max" ready_or_ended || fail "the server on port $port was not ready within $start_seconds_max s"
  [[ -s $dir/$port ]] || fail "the server on port $port did not start"
done

echo
for port in "${ports[@]}"; do echo "  colloquy   $(<"$dir/$port")/docs"; done
echo "  MongoDB    $COLLOQUY_STORE"
echo "  Redis      $COLLOQUY_CACHE"
echo "  S3         $(place s3)"
echo "  logs       $dir/*.log"
echo
echo "What you write to one server, the other shows. Ctrl-C stops everything and deletes its data."
# A server that ends by itself is worth knowing of.
wait -n "${servers[@]}" || true
fail "a server ended"
