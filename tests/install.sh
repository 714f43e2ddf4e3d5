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
kubectl wait --for=condition=Ready outputstore/trial --timeout=60s >/dev/null

# The API server takes a while to know a new kind well enough for a mutating admission policy on it, and refuses it until then.
answers() {
  kubectl create --dry-run=server -f - <<YAML 2>&1
apiVersion: asynctask.dev/v1alpha1
kind: $1
metadata: {name: is-the-kind-known, namespace: default}
spec: $2
YAML
}
for kind in 'TaskDefinition {title: t, steps: [{name: s, template: {}}]}' 'AsyncTask {definition: {name: d}}'; do
  deadline=$((SECONDS + 60))
  until answer=$(answers "${kind%% *}" "${kind#* }"); do
    if ((SECONDS > deadline)); then
      echo "the API server takes no ${kind%% *}: $answer" >&2
      exit 1
    fi
    sleep 0.5
  done
done
