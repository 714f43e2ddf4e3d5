#!/usr/bin/env bash
# Waits until the API server takes objects of our kinds.
set -euo pipefail

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
