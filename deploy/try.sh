#!/usr/bin/env bash
# One conversation against a running deployment, from its first event to the archive: deploy/try.sh [URL]
#
# It says what it does, which replica answered (where nginx tells), and ends with an error at the first answer that is not
# the one promised. It needs curl, and a deployment that archives soon after the end, as docker-compose.yml and
# deploy/dev.sh do.
set -euo pipefail

archive_wait_seconds_max=180
reads=6

url=${1:-http://127.0.0.1:8080}
session=try-$(date +%s)-$$
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-try.XXXXXX")
trap 'rm -rf "$dir"' EXIT

fail() {
  printf 'try: %s\n' "$1" >&2
  if [[ -s $dir/body ]]; then printf '     %s\n' "$(head -c 2000 "$dir/body")" >&2; fi
  exit 1
}

# call STATUS METHOD PATH [BODY]: the request must be answered with this status. The answer is in $dir/body and $dir/head.
call() {
  local wanted=$1 method=$2 path=$3 status
  local -a data=()
  if (($# > 3)); then data=(-H 'Content-Type: application/json' --data-binary "$4"); fi
  : >"$dir/body"
  status=$(curl --silent --show-error --max-time 90 --request "$method" "${data[@]}" --dump-header "$dir/head" \
    --output "$dir/body" --write-out '%{http_code}' "$url$path") || fail "$method $path: no answer from $url"
  [[ $status == "$wanted" ]] || fail "$method $path: $status instead of $wanted"
}

header() { tr -d '\r' <"$dir/head" | sed -n "s/^$1: //Ip"; }
says() { grep -qF -- "$1" "$dir/body" || fail "the answer does not say $1"; }
step() { printf '%-58s %s\n' "$1" "$(header X-Served-By)"; }

call 200 GET /readyz
step "ready: $(<"$dir/body")"

call 201 POST /v1/sessions "{\"sessionId\": \"$session\", \"userId\": \"try\", \"language\": \"en-US\"}"
step "opened $session"

event='{"eventId": "turn-1", "type": "user_speech", "payload": {"text": "A table for two, please."}}'
call 201 POST "/v1/sessions/$session/events" "$event"
step "appended turn-1"
cp "$dir/body" "$dir/first"

call 200 POST "/v1/sessions/$session/events" "$event"
[[ $(header Idempotency-Replayed) == true ]] || fail "the repeated event is not called a replay"
cmp -s "$dir/first" "$dir/body" || fail "the repeated event is another than the first, which was: $(<"$dir/first")"
step "repeated turn-1: the same event"

call 409 POST "/v1/sessions/$session/events" "${event/A table/A room}"
says event-id-reused
step "refused another event of the same id"

call 200 POST "/v1/sessions/$session/events/batch" '{"events": [
  {"eventId": "turn-2", "type": "bot_speech", "payload": {"text": "For what time?"}},
  {"eventId": "turn-3", "type": "user_speech", "payload": {"text": "Half past eleven."}}]}'
[[ $(grep -o '"outcome":"created"' "$dir/body" | wc -l) == 2 ]] || fail "two events were not both created"
step "appended turn-2 and turn-3"

: >"$dir/replicas"
for ((read = 1; read <= reads; read++)); do
  call 200 GET "/v1/sessions/$session/events"
  for turn in 1 2 3; do says "\"eventId\":\"turn-$turn\""; done
  header X-Served-By >>"$dir/replicas"
  if ((read == 1)); then cp "$dir/body" "$dir/hot"; fi
  cmp -s "$dir/hot" "$dir/body" || fail "read $read differs from the first, which was: $(<"$dir/hot")"
done
replicas=$(sort -u "$dir/replicas" | grep -c .) || true
# Nobody said which replica answered: then there is nothing to tell.
[[ ! -s $dir/replicas ]] || ((replicas > 1)) || fail "$reads reads were answered by the same replica"
step "read all three $reads times, the same from every replica"

call 200 POST "/v1/sessions/$session/complete"
says '"status":"completed"'
step "completed"
call 409 POST "/v1/sessions/$session/events" '{"eventId": "turn-4", "type": "user_speech", "payload": {}}'
says session-ended
step "refused an event after the end"

echo "waiting for the archiver, at most $archive_wait_seconds_max s"
deadline=$((SECONDS + archive_wait_seconds_max))
until call 200 GET "/v1/sessions/$session" && grep -qF '"archived":true' "$dir/body"; do
  ((SECONDS < deadline)) || fail "the session was not archived; does a process archive soon after the end (archive_after)?"
  sleep 1
done
step "archived"

call 200 GET "/v1/sessions/$session/events"
cmp -s "$dir/hot" "$dir/body" || fail "the archived events differ from the hot ones, which were: $(<"$dir/hot")"
step "read from the archive: the same, to the byte"
call 200 POST "/v1/sessions/$session/events" "$event"
[[ $(header Idempotency-Replayed) == true ]] || fail "the archived event is not replayed"
step "repeated turn-1 once more: the same event"

call 404 GET /metrics
step "no metrics for strangers"
echo "try: all as promised"
