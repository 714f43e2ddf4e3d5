#!/usr/bin/env bash
# Boots a cluster of its own, installs the chart, puts the operator behind the fault proxy and runs the fault tests; then
# shows the table: fault × places × oracles. usage: run.sh [test-name filter and test arguments…]
# KEEP=1 leaves the cluster up, to look at; the next run makes a new one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
name=${FAULTS_CLUSTER:-faults}
work=$ASYNCTASK_CACHE/faults-$name
cluster() { "$here/../cluster/cluster" "$@"; }

finish() {
  # By the pids that they wrote down themselves.
  for pid in "$work"/*.pid; do
    if [[ -f $pid ]]; then kill -9 "$(cat "$pid")" 2>/dev/null || true; fi
  done
  rm -f "$work"/*.pid
  if [[ -s $FAULTS_TABLE ]]; then
    echo
    { echo 'id|fault|places|struck|O1 ledger|O2 objects|O3 audit|O4 bucket|O5 secrets'; cat "$FAULTS_TABLE"; } | column -t -s '|'
    cut -c1-600 "$FAULTS_TABLE.wrong"
  fi
  if [[ -z ${KEEP:-} ]]; then
    cluster down --name "$name" >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
    rm -rf "$work"
  fi
}
# The store of a kept cluster ended with its run, and what is in it cannot be deleted any more.
cluster down --name "$name" >/dev/null 2>&1 || true
rm -rf "$work"
mkdir -p "$work/tmp"
export TMPDIR=$work/tmp FAULTS_FOLDER=$work FAULTS_TABLE=$work/table FAULTS_CLUSTER=$name
rm -f "$FAULTS_TABLE" "$FAULTS_TABLE.wrong"
trap finish EXIT
cluster up --name "$name"
cluster fakes --name "$name" --nodes 4 # for fan-outs: no other pod tolerates their taint
eval "$(cluster env --name "$name" --path "$ASYNCTASK_CACHE/path")"
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"
cluster load --name "$name" "$OPERATOR_ARCHIVE" "$AGENT_ARCHIVE" "$HELLO_REPORT_ARCHIVE"
export E2E_VOLUME=$work/volume HELLO_REPORT_IMAGE
export FAULTS_OPERATOR=${FAULTS_OPERATOR:?the operator binary, set by make}
"$here/../install.sh" "$E2E_VOLUME"
cd "$root"
cargo test --locked --workspace --test faults -- --test-threads=1 --nocapture "$@"
