#!/usr/bin/env bash
# Boots a cluster of its own, declares the chart on it, and measures operator and gateway as processes of this machine.
# usage: run.sh      BENCH_* variables say how much (docs/src/benchmarks.md); KEEP=1 leaves the cluster up;
# BENCH_PROFILE= measures a debug build, to try the bench itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
name=${BENCH_CLUSTER:-bench}
work=$ASYNCTASK_CACHE/bench-$name
cluster() { "$here/../cluster/cluster" "$@"; }

finish() {
  # By the pids that they wrote down themselves.
  for pid in "$work"/*.pid; do
    if [[ -f $pid ]]; then kill -9 "$(cat "$pid")" 2>/dev/null || true; fi
  done
  rm -f "$work"/*.pid
  if [[ -z ${KEEP:-} ]]; then
    cluster down --name "$name" >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
    rm -rf "$work"
  fi
}
cluster down --name "$name" >/dev/null 2>&1 || true # one that was kept is no clean start
rm -rf "$work"
mkdir -p "$work/tmp"
export TMPDIR=$work/tmp BENCH_FOLDER=$work BENCH_CLUSTER=$name
trap finish EXIT
cluster up --name "$name"

# Bodies of ten thousands of pods in the audit log would be measured too.
cat >"$ASYNCTASK_CACHE/clusters/$name/config/audit-policy.json" <<'JSON'
{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"], "rules": [
  {"level": "None", "resources": [{"group": "coordination.k8s.io"}]},
  {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
  {"level": "None"}
]}
JSON
cluster restart --name "$name" kube-apiserver
cluster fakes --name "$name" --nodes 1
eval "$(cluster env --name "$name" --path "$ASYNCTASK_CACHE/path")"

# Accounts, rights, kinds and policies are the chart's; its two processes run here. No image of ours is needed.
kubectl create namespace asynctask-system >/dev/null
helm upgrade --install asynctask "$root/charts/asynctask-operator" --namespace asynctask-system \
  --set operator.replicas=0 --set gateway.replicas=0 --set gateway.requestsPerSecond=0 --set agent.injection=image-volume --set log.filter=warn >/dev/null
"$here/../await-kinds.sh"
cd "$root"
# shellcheck disable=SC2086
cargo build --locked --workspace ${BENCH_PROFILE---release} --bin asynctask-operator --bin asynctask-gateway
# shellcheck disable=SC2086
cargo test --locked --workspace ${BENCH_PROFILE---release} --test bench -- --ignored --nocapture --exact the_budgets_are_measured
