#!/usr/bin/env bash
# Boots a cluster of its own, installs the chart as a user would, and runs the end-to-end tests against it.
# usage: run.sh [test-name filter and cargo test arguments…]       KEEP=1 leaves the cluster up, THREADS=n runs n tests at a time
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
name=${E2E_CLUSTER:-e2e}
work=$ASYNCTASK_CACHE/e2e-$name
cluster() { "$here/../cluster/cluster" "$@"; }

finish() {
  # Asked politely it waits for peers that are gone; its data is throw-away.
  if [[ -f $work/seaweed.pid ]]; then kill -9 "$(cat "$work/seaweed.pid")"; fi
  if [[ -z ${KEEP:-} ]]; then
    cluster down --name "$name" >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
    rm -rf "$work"
  fi
}
# A cluster that was kept before left its volume, which the new one would take for another's.
rm -rf "$work"
mkdir -p "$work/tmp"
export TMPDIR=$work/tmp # what tests leave goes with the cluster
trap finish EXIT
cluster up --name "$name"
cluster fakes --name "$name" --nodes 4 # for the queue: no other pod tolerates their taint
eval "$(cluster env --name "$name" --path "$ASYNCTASK_CACHE/path")"
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"
cluster load --name "$name" "$OPERATOR_ARCHIVE" "$AGENT_ARCHIVE" "$HELLO_REPORT_ARCHIVE" "$COURSE_OUTLINE_ARCHIVE"
export E2E_VOLUME=$work/volume HELLO_REPORT_IMAGE COURSE_OUTLINE_IMAGE
export E2E_AGENT=${E2E_AGENT:?the agent binary, set by make}
"$here/../install.sh" "$E2E_VOLUME"
cd "$root"
cargo test --locked --workspace --test e2e -- --test-threads="${THREADS:-4}" --show-output "$@"
