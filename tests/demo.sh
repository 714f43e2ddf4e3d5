#!/usr/bin/env bash
# The newcomer's first five minutes, called by `make demo`: a real cluster, the chart, one task, its result in hand.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/..
work=$ASYNCTASK_CACHE/demo
started=$SECONDS
cluster() { "$here/cluster/cluster" "$@"; }
say() { printf '\n\033[1m▶ %s\033[0m  (%d s)\n' "$*" $((SECONDS - started)); }
shown() { printf '  $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/  /'; }

say "Booting Kubernetes: etcd, API server, scheduler, kubelet with containerd, CoreDNS"
if ! cluster up --name demo; then
  say "What is left of an earlier cluster does not come up: it is removed, and booted anew"
  cluster down --name demo
  cluster up --name demo
fi
eval "$(cluster env --name demo --path "$ASYNCTASK_CACHE/path")"
# A volume belongs to the cluster that wrote it, and the store refuses that of another. One that is gone needs none.
cluster_id=$(kubectl get namespace kube-system -o jsonpath='{.metadata.uid}')
if [[ $(cat "$work/cluster-id" 2>/dev/null) != "$cluster_id" ]]; then
  rm -rf "$work/volume"
  mkdir -p "$work"
  echo "$cluster_id" >"$work/cluster-id"
fi
# shellcheck disable=SC1091
source "$ASYNCTASK_CACHE/images/images.env"

say "Loading images"
cluster load --name demo "$OPERATOR_ARCHIVE" "$AGENT_ARCHIVE" "$HELLO_REPORT_ARCHIVE" "$COURSE_OUTLINE_ARCHIVE" | sed 's/^/  /'

say "Installing the chart with helm"
"$here/install.sh" "$work/volume" --set log.format=text
shown kubectl -n asynctask-system get pods
shown kubectl get outputstores

say "Publishing the task definitions"
kubectl create namespace studio --dry-run=client -o yaml | kubectl apply -f - >/dev/null
kubectl label namespace studio pod-security.kubernetes.io/enforce=restricted --overwrite >/dev/null
for example in hello-report course-outline; do
  shown kubectl -n studio apply -f "$root/manifests/examples/$example/definition.yaml"
  kubectl -n studio wait --for=condition=Ready "taskdefinition/$example" --timeout=60s >/dev/null
done

say "Running a task: the outline of a course, from a course archive"
course=${COURSE_ARCHIVE:-$work/course.tar.gz}
[[ -f $course ]] || python3 "$root/tests/e2e/archives.py" course "$course"
shown ls -l "$course"
name=outline-$(date +%H%M%S)
printf '  $ kubectl asynctask -n studio run course-outline --name %s --input archive=%s --watch\n' "$name" "$course"
kubectl asynctask -n studio run course-outline --name "$name" --input archive="$course" --watch 2>&1 | sed 's/^/  /'
shown kubectl -n studio get asynctasks -o wide
shown kubectl asynctask -n studio status "$name"

say "Fetching the result through the gateway, checksum verified"
rm -rf "$work/outline" && mkdir -p "$work/outline"
shown kubectl asynctask -n studio outputs ls "$name"
shown kubectl asynctask -n studio outputs get "$name" -o "$work/outline"
find "$work/outline" -type f -name '*.csv' -exec head -n 5 {} + | sed 's/^/  | /'

say "Done. The cluster stays up. Next:"
cat <<NEXT
  eval "\$(make -s cluster-env)"                          # kubectl, helm and kubectl-asynctask for this cluster
  kubectl asynctask -n studio run hello-report -p name=Ada --watch   # another task
  make demo-down                                          # removes all of this
NEXT
