#!/usr/bin/env bash
# The image and docker-compose.yml are well-formed, fit each other, and are true of the binary: all that can be said
# without a container engine. tests/tools.sh tests/deploy/compose.sh
#
# The binary is target/debug/colloquy, or $COLLOQUY_TEST_BIN. nginx and docker-compose are Debian's (tests/packages.sh).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")
export PATH="$PATH:/usr/sbin"

for tool in hadolint docker-compose nginx cargo rustc python3; do
  command -v "$tool" >/dev/null || { echo "compose: $tool is missing; make tools packages installs what it can" >&2; exit 1; }
done
[[ -x $binary ]] || { echo "compose: $binary is missing; build it first" >&2; exit 1; }

cd "$root"
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-compose.XXXXXX")
trap 'rm -rf "$dir"' EXIT

hadolint deploy/Dockerfile

# What this machine's environment says is not the deployment's.
env -i PATH="$PATH" HOME="$dir" docker-compose -f docker-compose.yml config >"$dir/compose.yml"

# Debian's nginx is older than the image's: it knows neither `resolver` in an upstream nor `resolve`, and would look the
# replicas up at once, by names that only the deployment has.
mkdir "$dir/nginx"
cp deploy/nginx/nginx.conf deploy/nginx/listen.conf "$dir/nginx/"
sed -E -e '/^resolver /d' -e 's/^(server )[a-z0-9-]+:([0-9]+) resolve/\1127.0.0.1:\2/' deploy/nginx/upstream.conf \
  >"$dir/nginx/upstream.conf"
nginx -q -t -e stderr -p "$dir/nginx/" -c "$dir/nginx/nginx.conf"
python3 -B tests/deploy/nginx.py "$(command -v nginx)"

# Nothing else is in the folder in which the image is built.
python3 -B tests/deploy/compose.py context "$dir/context"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --locked --offline --filter-platform "$host" --format-version 1 --manifest-path "$dir/context/Cargo.toml" \
  >/dev/null

python3 -B tests/deploy/compose.py check "$binary" "$dir/compose.yml"
