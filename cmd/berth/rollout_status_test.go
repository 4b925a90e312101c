package main

import (
	"testing"

	"github.com/berth-registry/berth/rollout"
)

// Who watches what was just published is not told how the version before it ended.
func TestRolloutEndsForWhatTheTagNames(t *testing.T) {
	for name, test := range map[string]struct {
		summary     rollout.Summary
		end, failed bool
	}{
		"done":                  {rollout.Summary{State: rollout.Done, Names: "a", Digest: "a"}, true, false},
		"done, and moved on":    {rollout.Summary{State: rollout.Done, Names: "b", Digest: "a"}, false, false},
		"failed":                {rollout.Summary{State: rollout.Failed, Names: "a", Digest: "a"}, true, true},
		"failed, and moved on":  {rollout.Summary{State: rollout.Failed, Names: "b", Digest: "a"}, false, false},
		"undone, and moved on":  {rollout.Summary{State: rollout.Undone, Names: "b", Digest: "a"}, false, false},
		"nodes still return":    {rollout.Summary{State: rollout.Failed, Names: "a", Digest: "a", Bad: "b", Progress: rollout.Progress{Waiting: 1}}, false, false},
		"done, and tag deleted": {rollout.Summary{State: rollout.Done, Digest: "a"}, true, false},
	} {
		if end, failed := ended(test.summary); end != test.end || failed != test.failed {
			t.Errorf("%s: ended %v, failed %v", name, end, failed)
		}
	}
}
