// Package kstatus asks the library that GitOps tools judge objects by (sigs.k8s.io/cli-utils, kstatus) what it makes of
// an AsyncTask in each state. tasks.json is written from the operator's own code by a test in src/plan/status.rs.
package kstatus

import (
	"encoding/json"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// A task that somebody canceled is where it was wanted: only a failure is one.
var want = map[string]status.Status{
	"Pending":           status.InProgressStatus,
	"InProgress":        status.InProgressStatus,
	"Canceling":         status.InProgressStatus,
	"Complete":          status.CurrentStatus,
	"PartiallyComplete": status.CurrentStatus,
	"Canceled":          status.CurrentStatus,
	"Failed":            status.FailedStatus,
}

func tasks(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	file, err := os.ReadFile("tasks.json")
	if err != nil {
		t.Fatal(err)
	}
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(file, &raw); err != nil {
		t.Fatal(err)
	}
	tasks := map[string]*unstructured.Unstructured{}
	for state, object := range raw {
		tasks[state] = &unstructured.Unstructured{}
		// Its own reader, as numbers have to be integers.
		if err := tasks[state].UnmarshalJSON(object); err != nil {
			t.Fatal(err)
		}
	}
	return tasks
}

func TestEachStateIsSeenAsWhatItIs(t *testing.T) {
	tasks := tasks(t)
	if len(tasks) != len(want) {
		t.Errorf("tasks.json has %d states, this test knows %d", len(tasks), len(want))
	}
	for state, task := range tasks {
		result, err := status.Compute(task)
		if err != nil {
			t.Errorf("%s: %v", state, err)
		} else if result.Status != want[state] {
			t.Errorf("%s is seen as %s (%s), not as %s", state, result.Status, result.Message, want[state])
		}
	}
}

func TestASpecThatNobodyHasLookedAtIsInProgress(t *testing.T) {
	task := tasks(t)["Complete"]
	task.SetGeneration(task.GetGeneration() + 1)
	result, err := status.Compute(task)
	if err != nil || result.Status != status.InProgressStatus {
		t.Errorf("seen as %v, %v", result, err)
	}
}
