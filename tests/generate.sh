#!/usr/bin/env bash
# Writes what is generated from code: CRDs, the rendered chart, the OpenAPI document.
# usage: generate.sh TARGET_ROOT    or    generate.sh --check      (after `make binaries`, which says where they are)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
generated=(crds charts/asynctask-operator/files/crds manifests/install.yaml docs/src/openapi.json)

generate() {
  local to=$1
  mkdir -p "$to/crds" "$to/charts/asynctask-operator/files/crds" "$to/manifests" "$to/docs/src"
  "$CARGO_TARGET_DIR/debug/crdgen" "$to/crds"
  cp "$to"/crds/*.yaml "$to/charts/asynctask-operator/files/crds/"
  "$CARGO_TARGET_DIR/debug/asynctask-gateway" openapi >"$to/docs/src/openapi.json"
  # Rendered for a server with mutating admission policies; the chart itself asks the server.
  "$(tests/cluster/cluster which helm)" template asynctask charts/asynctask-operator --namespace asynctask-system --no-hooks \
    --kube-version 1.37.0 --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy \
    >"$to/manifests/install.yaml"
}

if [[ ${1:-} != --check ]]; then
  generate "${1:?usage: generate.sh TARGET_ROOT | --check}"
  exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
status=0
for path in "${generated[@]}"; do
  diff -ru "$path" "$fresh/$path" || { echo "$path is not what the code says: run \`make generate\` and commit" >&2; status=1; }
done
exit $status
