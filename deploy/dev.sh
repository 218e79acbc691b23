#!/usr/bin/env bash
# What docker-compose.yml deploys, on this machine and without containers, to play with: MongoDB, Redis and an S3 server,
# which the integration tests know how to start; two replicas of colloquy behind nginx; an archiver; and Prometheus.
# nginx is on port 8080 and Prometheus on 9090, or on those that COLLOQUY_DEV_PORTS names ("8080 9090"); the others take
# free ports. Everything is kept in a temporary folder, and gone after Ctrl-C.
#
# MongoDB is a replica set here, not a sharded cluster: no package registry has its router, mongos.
#
# Run it with `make dev`, which builds what it needs first; `deploy/try.sh` in another terminal shows that it works.
#
# shellcheck disable=SC2329 # `trap` and `wait_for` call what shellcheck sees nobody call.
set -euo pipefail

start_seconds_max=30
lend_seconds_max=600
stop_seconds_max=15

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")
read -r nginx_port prometheus_port <<<"${COLLOQUY_DEV_PORTS:-8080 9090}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-dev.XXXXXX")

# Settings of the person who runs this are for servers of their own.
for name in "${!COLLOQUY_@}" "${!AWS_@}" "${!OTEL_@}"; do unset "$name"; done
# Debian keeps servers in sbin, which is not on everybody's path.
export PATH="$PATH:/usr/sbin"

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
# http://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET
[[ $(place s3) =~ ^(https?://)([^:]+):([^@]+)@([^/]+)/(.+)$ ]] || fail "the S3 server has an odd URL: $(place s3)"
export AWS_ACCESS_KEY_ID=${BASH_REMATCH[2]} AWS_SECRET_ACCESS_KEY=${BASH_REMATCH[3]}
export COLLOQUY_ARCHIVE_S3_ENDPOINT=${BASH_REMATCH[1]}${BASH_REMATCH[4]} COLLOQUY_ARCHIVE_S3_REGION=us-east-1
export COLLOQUY_ARCHIVE=s3://${BASH_REMATCH[5]}/archive
COLLOQUY_STORE=$(place mongodb)
COLLOQUY_CACHE=$(place redis)
export COLLOQUY_STORE COLLOQUY_CACHE
# Soon, to watch it happen; the default is 30 days.
export COLLOQUY_ARCHIVE_AFTER=10s
"$binary" init >"$dir/init.log" 2>&1 || fail "the database could not be initialised"

# Starts a server of colloquy on a free port: serve NAME ARCHIVE_EVERY. Its address gets into $dir/NAME.
serve() {
  (
    trap '' INT
    COLLOQUY_ARCHIVE_EVERY=$2 exec "$binary" serve --listen 127.0.0.1:0 --address-file "$dir/$1"
  ) </dev/null >"$dir/$1.log" 2>&1 9>&- &
  servers+=($!)
}
for name in colloquy-1 colloquy-2; do serve "$name" off; done
serve archiver 5s
for name in colloquy-1 colloquy-2 archiver; do
  wait_for "$start_seconds_max" test -s "$dir/$name" || fail "$name was not ready within $start_seconds_max s"
done
address() { sed 's|^http://||' "$dir/$1"; }

mkdir "$dir/nginx"
cp "$root/deploy/nginx/nginx.conf" "$dir/nginx/"
printf 'server %s max_fails=1 fail_timeout=1s;\n' "$(address colloquy-1)" "$(address colloquy-2)" >"$dir/nginx/upstream.conf"
# shellcheck disable=SC2016 # It is nginx's variable.
printf 'listen 127.0.0.1:%s;\nadd_header X-Served-By $upstream_addr always;\n' "$nginx_port" >"$dir/nginx/listen.conf"
start_nginx=(nginx -e stderr -p "$dir/nginx/" -c "$dir/nginx/nginx.conf")
# As root, nginx would give its workers to nobody, who can't enter this folder.
if ((EUID == 0)); then start_nginx+=(-g 'user root;'); fi
type -P nginx >/dev/null || fail "there is no nginx: tests/packages.sh installs it"
(
  trap '' INT
  exec "${start_nginx[@]}"
) </dev/null >"$dir/nginx-access.log" 2>"$dir/nginx.log" 9>&- &
servers+=($!)
url=http://127.0.0.1:$nginx_port
answers() { curl --silent --fail --max-time 5 --output /dev/null "$1"; }
wait_for "$start_seconds_max" answers "$url/readyz" \
  || fail "nginx did not answer on port $nginx_port within $start_seconds_max s"

type -P prometheus >/dev/null || fail "there is no Prometheus: tests/packages.sh installs it"
mkdir "$dir/prometheus"
cp "$root/deploy/prometheus/alerts.yml" "$dir/prometheus/"
sed -e "s/colloquy-1:8080/$(address colloquy-1)/" -e "s/colloquy-2:8080/$(address colloquy-2)/" \
  -e "s/archiver:8080/$(address archiver)/" -e "s/localhost:9090/127.0.0.1:$prometheus_port/" \
  "$root/deploy/prometheus/prometheus.yml" >"$dir/prometheus/prometheus.yml"
(
  trap '' INT
  exec prometheus --config.file="$dir/prometheus/prometheus.yml" --storage.tsdb.path="$dir/prometheus/data" \
    --web.listen-address="127.0.0.1:$prometheus_port" --log.level=warn
) </dev/null >"$dir/prometheus.log" 2>&1 9>&- &
servers+=($!)
wait_for "$start_seconds_max" answers "http://127.0.0.1:$prometheus_port/-/ready" \
  || fail "Prometheus was not ready on port $prometheus_port within $start_seconds_max s"

cat <<TEXT

  colloquy     $url/docs     through nginx
  replicas     $(address colloquy-1)  $(address colloquy-2)
  archiver     $(address archiver)
  Prometheus   http://127.0.0.1:$prometheus_port/targets
  MongoDB      $COLLOQUY_STORE
  Redis        $COLLOQUY_CACHE
  S3           $(place s3)
  logs         $dir/*.log

deploy/try.sh $url plays one conversation through all of it. Ctrl-C stops everything and deletes its data.
TEXT
# A server that ends by itself is worth knowing of.
wait -n "${servers[@]}" || true
fail "a server ended"
