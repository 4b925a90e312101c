package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/storage"
)

// told is what is recorded of a failure: "VERSION: NODE, NODE CAUSE; REASON", or nothing.
func told(f *storage.RolloutFailure, versions ...string) string {
	if f == nil {
		return ""
	}
	i := slices.IndexFunc(versions, func(name string) bool { return v(name) == f.Digest })
	var nodes []string
	for _, n := range f.Nodes {
		nodes = append(nodes, strings.TrimSuffix(n.Name+" "+n.Cause, " failed"))
	}
	s := versions[i] + ": " + strings.Join(nodes, ", ")
	if f.More > 0 {
		s += fmt.Sprintf(" and %d", f.More)
	}
	if f.Reason != "" {
		s += "; " + f.Reason
	}
	return s
}

// TestFailure has what failed last be told of, until another version has come through.
func TestFailure(t *testing.T) {
	const all = `{"parallel":5}`
	ready := []string{"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "c: running 1 -> 1", "is done"}
	const waits, turn = ", it failed here: it waits for another version", ", not its turn: 1 of 1 node deploys"
	for name, test := range map[string]struct {
		steps []string
		want  string
	}{
		"none":             {[]string{"tag 2", "a: running 1 -> 2"}, ""},
		"returned":         {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "a: running 1 -> 1", "+1h", "tick"}, "2: a; stopped after 1 failure"},
		"late":             {[]string{"tag 2 " + all, "a: running 1 -> 2", "b: running 1 -> 2", "b: failed 1 2 -> 1", "a: failed 1 2 -> 1", "a: running 1 -> 1"}, "2: a, b; stopped after 1 failure"},
		"others ran it":    {[]string{"tag 2 " + all, "a: running 1 -> 2", "b: running 1 -> 2", "a: running 2 -> 2", "b: failed 1 2 -> 1", "a: running 2 -> 1", "a: running 1 -> 1"}, "2: b; stopped after 1 failure"},
		"silent":           {[]string{"tag 2", "a: running 1 -> 2", "+80s", "b: running 1 -> 1" + turn, "+15s", "tick"}, "2: a was not heard of while it deployed; stopped after 1 failure"},
		"silent, then why": {[]string{"tag 2", "a: running 1 -> 2", "+80s", "b: running 1 -> 1" + turn, "+15s", "tick", "a: failed 1 2 -> 1"}, "2: a; stopped after 1 failure"},
		"silent, then ran": {[]string{`tag 2 {"max_failures":1}`, "a: running 1 -> 2", "+80s", "b: running 1 -> 1" + turn, "+15s", "tick", "a: running 2 -> 2"}, ""},
		"tolerated":        {[]string{`tag 2 {"max_failures":1}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits}, "2: a"},
		"tolerated, done":  {[]string{`tag 2 {"max_failures":1}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "b: running 2 -> 2", "c: running 2 -> 2", "is done"}, ""},
		"undone":           {[]string{`tag 2 {"max_failures":1}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "undo", "a: running 1 -> 1"}, "2: a; the tag was moved back"},
		"undone unharmed":  {[]string{"tag 2", "a: running 1 -> 2", "undo"}, ""},
		"superseded":       {[]string{`tag 2 {"max_failures":1}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "tag 3", "a: running 1 -> 3"}, "2: a"},
		"stays":            {[]string{`tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits}, "2: a; stopped after 1 failure"},
		"resumed":          {[]string{`tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "resume", "+1s", "a: running 1 -> 2"}, "2: a; stopped after 1 failure"},
		"resumed, again":   {[]string{`tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "resume", "+1s", "b: running 1 -> 2", "b: failed 1 2 -> 1" + waits}, "2: b; stopped after 1 failure"},
		"resumed, done":    {[]string{`tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1" + waits, "resume", "a: running 2 -> 2", "b: running 2 -> 2", "c: running 2 -> 2", "is done"}, ""},
		"next one runs":    {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 3", "a: running 1 -> 3", "a: running 3 -> 3"}, "2: a; stopped after 1 failure"},
		"next one done":    {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 3", "a: running 3 -> 3", "b: running 3 -> 3", "c: running 3 -> 3", "is done"}, ""},
		"done unasked":     {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 3", "a: running 3 -> 3", "b: running 3 -> 3", "+50s", "a: running 3 -> 3", "b: running 3 -> 3", "is running", "+45s", "tag 4", "a: running 3 -> 4"}, ""},
		"next one fails":   {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 3", "b: running 1 -> 3", "b: failed 1 3 -> 1"}, "3: b; stopped after 1 failure"},
		"once more":        {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 2", "+1s", "b: running 1 -> 2", "b: failed 1 2 -> 1"}, "2: b; stopped after 1 failure"},
		"late comer":       {[]string{"d: running - -> 1", "d: failed - 1 -> -" + waits, "is done"}, ""},
		"not chosen":       {[]string{`tag 2 {"nodes":{"site":"x"}}`, "a: failed 1 2 -> 1, not chosen by labels"}, ""},
		"before fails too": {[]string{"tag 2", "a: running 1 -> 2", "a: failed 2 2 -> 1", "a: failed 2 1 -> 1"}, "2: a; stopped after 1 failure"},
		"deleted":          {[]string{"tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "untag", "tick"}, "2: a; stopped after 1 failure"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			for _, s := range slices.Concat(ready, test.steps) {
				p.step(s)
				if t.Failed() {
					t.Fatalf("at %q", s)
				}
			}
			if got := told(p.s.Failure, "1", "2", "3", "4"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestFailureOfMany names no more nodes than it may, and counts the others once, however
// often they say it.
func TestFailureOfMany(t *testing.T) {
	const n, late = MaxFailed + 10, MaxFailed + 15
	p := newPlay(t)
	name := func(i int) string { return fmt.Sprintf("n%03d", i) }
	p.tag("1", "")
	for i := range late {
		p.report(name(i), "running 1")
	}
	p.tag("2", fmt.Sprintf(`{"parallel":%d,"on_failure":"pause"}`, late))
	for range 2 {
		for i := range n {
			p.report(name(i), "running 1")
			p.report(name(i), "failed 1 2")
		}
	}
	if f := p.s.Failure; len(f.Nodes) != MaxFailed || f.More != n-MaxFailed {
		t.Errorf("%d nodes, and %d", len(f.Nodes), f.More)
	}
	p.tag("1", "")
	for range 2 {
		for i := range late {
			p.report(name(i), "failed 1 2")
		}
	}
	f := p.s.Failure
	if len(f.Nodes) != MaxFailed || f.More != late-MaxFailed || f.Reason != "stopped after 1 failure" {
		t.Errorf("%d nodes, and %d: %s", len(f.Nodes), f.More, f.Reason)
	}
	if !slices.IsSortedFunc(f.Nodes, func(a, b storage.FailedNode) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%+v", f.Nodes)
	}
}
