#!/usr/bin/env bash
# Installs the chart on the cluster that KUBECONFIG names, with the images `make images` built and a volume on this machine.
# usage: install.sh VOLUME_DIR [helm arguments…]      (kubectl and helm on PATH, ASYNCTASK_CACHE set)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
volume=$1
shift
namespace=asynctask-system
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"

mkdir -p "$volume"
chown 65532:65532 "$volume"
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: asynctask-outputs}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $namespace, name: asynctask-outputs}
  hostPath: {path: $volume, type: Directory}
YAML

helm upgrade --install asynctask "$here/../charts/asynctask-operator" --namespace $namespace \
  --set image.repository="${OPERATOR_IMAGE%:*}" --set image.tag="${OPERATOR_IMAGE##*:}" \
  --set agent.repository="${AGENT_IMAGE%:*}" --set agent.tag="${AGENT_IMAGE##*:}" \
  "$@" >/dev/null
for workload in operator gateway; do
  if ! kubectl -n $namespace rollout status "deployment/asynctask-$workload" --timeout=120s >/dev/null; then
    echo "the $workload did not become ready:" >&2
    kubectl -n $namespace get pods -o wide >&2
    kubectl -n $namespace describe pods -l "app.kubernetes.io/component=$workload" | tail -25 >&2
    kubectl -n $namespace logs "deployment/asynctask-$workload" --tail=30 >&2
    exit 1
  fi
done
if ! kubectl wait --for=condition=Ready outputstore/trial --timeout=60s >/dev/null; then
  echo "the store trial did not become ready:" >&2
  kubectl get outputstore trial -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}' >&2
  exit 1
fi

"$here/await-kinds.sh"
