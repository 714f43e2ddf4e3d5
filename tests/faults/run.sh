#!/usr/bin/env bash
# Boots a cluster of its own, installs the chart, puts the operator behind the fault proxy and runs the fault tests; then
# shows the table: fault × places × oracles. usage: run.sh short|full [test-name filter and arguments of the harness…]
# KEEP=1 leaves the cluster up, to look at; the next run makes a new one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
form=${1:?usage: run.sh short|full [ARGUMENTS…]}
shift
case $form in
  short) name=faults size='some writes' limit=2400 ;;
  full) name=faults-full size='every write, 1,000 shards' limit=10800 && set -- --include-ignored "$@" ;;
  *) echo "run.sh: short or full, not $form" >&2 && exit 2 ;;
esac
# On the cluster's own file system, which goes with it.
work=$ASYNCTASK_CACHE/clusters/$name/work
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
    said=$(cluster down --name "$name" 2>&1) || echo "$said" >&2
  fi
}
# The store of a kept cluster ended with its run, and what is in it cannot be deleted any more.
said=$(cluster down --name "$name" 2>&1) || echo "$said" >&2
export FAULTS_FOLDER=$work FAULTS_TABLE=$work/table FAULTS_CLUSTER=$name
trap finish EXIT
booting=$SECONDS
cluster up --name "$name"
mkdir -p "$work/tmp"
export TMPDIR=$work/tmp
cluster fakes --name "$name" --nodes 4 # for fan-outs: no other pod tolerates their taint
eval "$(cluster env --name "$name" --path "$ASYNCTASK_CACHE/path")"
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"
cluster load --name "$name" "$OPERATOR_ARCHIVE" "$AGENT_ARCHIVE" "$HELLO_REPORT_ARCHIVE"
installing=$SECONDS
export E2E_VOLUME=$work/volume HELLO_REPORT_IMAGE
export FAULTS_OPERATOR=${FAULTS_OPERATOR:?the operator binary, set by make}
"$here/../install.sh" "$E2E_VOLUME"
"$here/../runner.py" took "$name: boot" $((installing - booting))
"$here/../runner.py" took "$name: chart" $((SECONDS - installing))
"$here/../runner.py" suite faults --as "$name" --size "$size" --limit $limit -- --test-threads=1 --nocapture "$@"
