#!/usr/bin/env bash
# The programs that the checks of the deployment start, from Debian's packages: nginx, promtool (of prometheus) and
# docker-compose, which needs no engine to read a file. Installs those that are missing, which takes root.
set -euo pipefail

declare -A package_of=([nginx]=nginx-light [promtool]=prometheus [docker-compose]=docker-compose)

# Debian keeps servers in sbin, which is not on everybody's path.
export PATH="$PATH:/usr/sbin"

missing=()
for program in "${!package_of[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
if ((${#missing[@]})); then
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install them (Debian's names), or run this as root on Debian" >&2
    exit 1
  fi
  echo "installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Their services are not wanted here, only the programs.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v kubectl >/dev/null; then
  echo "missing: kubectl 1.25 or newer, for 'kubectl kustomize'" >&2
  exit 1
fi
