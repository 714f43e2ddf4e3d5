#!/usr/bin/env bash
# Boots a cluster of its own, installs the chart as a user would, and runs a suite of end-to-end tests on it.
# usage: run.sh SUITE [arguments of the test harness…]      The suites are below; each has a cluster of its own, so that
# several run beside each other. KEEP=1 leaves the cluster up, THREADS=n runs n tests at a time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
suite=${1:?usage: run.sh SUITE [ARGUMENTS…]}
shift
threads=1 limit=2400 show=()
case $suite in
  # Both together are the short form, which `make test` runs.
  shared) size='many beside each other' threads=6 tests=(--skip serial:: --skip harm:: --skip crowd:: --skip kueue::) ;;
  serial) size='one at a time' tests=(serial::) ;;
  # The long forms.
  scale)
    size='1,000 runs through the queue, 500 requests to cancel raced' limit=7200 tests=(queue::many_runs races::)
    export SCALE_TASKS=1000 SCALE_RACES=500
    ;;
  spread)
    size='200 shards whose pods are killed, a million items' limit=7200 tests=(spread::whatever_is_killed serial::memory::)
    export SPREAD_SHARDS=200 SPREAD_ITEMS=1000000
    ;;
  away)
    size='a store away for ten minutes, twice' limit=7200 tests=(away::)
    export STORE_AWAY=600
    ;;
  expired)
    size='10,989 outputs whose time is up' limit=7200 tests=(serial::expired::)
    export EXPIRED_RUNS=11
    ;;
  transfer)
    size='1 GiB up and down, beside another client' limit=7200 tests=(serial::transfer::)
    export TRANSFER_SIZE=1073741824 TRANSFER_ROUNDS=3
    ;;
  harm)
    size='what one tenant does to the runs of another' limit=7200 tests=(harm::)
    show=(--show another_tenants_runs_take_their_time_whatever_one_does)
    ;;
  crowd)
    size='20,000 finished and 5,000 waiting runs of one tenant' limit=7200 tests=(crowd::)
    show=(--show a_run_beside_a_crowd_takes_its_time)
    export CROWD_FINISHED=20000 CROWD_WAITING=5000
    ;;
  kueue) size='the real Kueue in the way' tests=(kueue::) ;;
  mixture)
    size='half an hour of everything at once' limit=7200 tests=(serial::mixture::)
    show=(--show a_quiet_tenant_hears_nothing_of_the_others)
    export MIXTURE_SECONDS=1800
    ;;
  *)
    echo "run.sh: no suite $suite: there are shared, serial, scale, spread, away, expired, transfer, harm, crowd, kueue, mixture" >&2
    exit 2
    ;;
esac
name=e2e-$suite
# On the cluster's own file system, which goes with it.
work=$ASYNCTASK_CACHE/clusters/$name/work
cluster() { "$here/../cluster/cluster" "$@"; }

finish() {
  # Asked politely it waits for peers that are gone; its data is throw-away. It may have ended with the tests.
  if [[ -f $work/seaweed.pid ]]; then kill -9 "$(cat "$work/seaweed.pid")" 2>/dev/null || true; fi
  if [[ -z ${KEEP:-} ]]; then
    said=$(cluster down --name "$name" 2>&1) || echo "$said" >&2
  fi
}
# What a run before left, kept or killed, belongs to other volumes and servers.
said=$(cluster down --name "$name" 2>&1) || echo "$said" >&2
trap finish EXIT
booting=$SECONDS
cluster up --name "$name"
mkdir -p "$work/tmp"
export TMPDIR=$work/tmp # what tests leave goes with the cluster
cluster fakes --name "$name" --nodes 4 # for the queue: no other pod tolerates their taint
eval "$(cluster env --name "$name" --path "$ASYNCTASK_CACHE/path")"
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"
cluster load --name "$name" "$OPERATOR_ARCHIVE" "$AGENT_ARCHIVE" "$HELLO_REPORT_ARCHIVE" "$COURSE_OUTLINE_ARCHIVE"
installing=$SECONDS
export E2E_VOLUME=$work/volume HELLO_REPORT_IMAGE COURSE_OUTLINE_IMAGE
export E2E_AGENT=${E2E_AGENT:?the agent binary, set by make}
"$here/../install.sh" "$E2E_VOLUME"
if [[ $suite == kueue ]]; then
  kueue=$(dirname "$(cluster which kueue)")
  cluster load --name "$name" "$kueue/kueue.oci.tar"
  helm install kueue "$kueue/chart" -n kueue-system --create-namespace --wait --timeout 3m \
    --set controllerManager.manager.image.repository=localhost/kueue,controllerManager.manager.image.tag=1 \
    --set controllerManager.manager.image.pullPolicy=Never,controllerManager.manager.podSecurityContext.runAsUser=65532 \
    --set controllerManager.manager.resources.requests.cpu=10m \
    --set 'controllerManager.featureGates[0].name=VisibilityOnDemand,controllerManager.featureGates[0].enabled=false' >/dev/null
fi
"$here/../runner.py" took "$name: boot" $((installing - booting))
"$here/../runner.py" took "$name: chart" $((SECONDS - installing))
"$here/../runner.py" suite e2e --as "$name" --size "$size" --limit $limit "${show[@]}" -- \
  --test-threads="${THREADS:-$threads}" "${tests[@]}" "$@"
