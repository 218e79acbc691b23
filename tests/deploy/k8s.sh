#!/usr/bin/env bash
# The manifests in k8s/ are well-formed, valid for Kubernetes, and true of the binary: tests/tools.sh tests/deploy/k8s.sh
#
# Needs kubectl, which builds the overlays, and no cluster. The binary is target/debug/colloquy, or $COLLOQUY_TEST_BIN.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=$(realpath "${COLLOQUY_TEST_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/colloquy}")

for tool in kubectl yamllint python3; do
  command -v "$tool" >/dev/null || { echo "k8s: $tool is missing; make tools packages installs what it can" >&2; exit 1; }
done
[[ -x $binary ]] || { echo "k8s: $binary is missing; build it first" >&2; exit 1; }

cd "$root"
dir=$(mktemp -d "${TMPDIR:-/tmp}/colloquy-k8s.XXXXXX")
trap 'rm -rf "$dir"' EXIT

yamllint --strict -d '{extends: default, rules: {document-start: disable, line-length: {max: 125}, braces: {max-spaces-inside: 0}}}' k8s

built=()
for overlay in k8s/overlays/*/; do
  name=$(basename "$overlay")
  kubectl kustomize "$overlay" >"$dir/$name.yaml"
  built+=("$name=$dir/$name.yaml")
done
python3 -B tests/deploy/k8s.py "$binary" "${built[@]}"
