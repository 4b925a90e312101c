package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// v is the digest of a version by its name.
func v(name string) string {
	if name == "" {
		return ""
	}
	return digest.FromString(name).String()
}

// play is a tag and its nodes, without a store.
type play struct {
	t   testing.TB
	now time.Time
	s   State
	out Outcome
}

func newPlay(t testing.TB) *play {
	return &play{t: t, now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
}

// tag moves the tag.
func (p *play) tag(name, policy string) {
	p.s.Tag = Target{Digest: v(name), Policy: policy, By: "alice", Moved: p.now}
}

// decide decides, and moves the tag back if that is decided.
func (p *play) decide(r *Report) Answer {
	p.t.Helper()
	p.out = Decide(p.s, r, p.now)
	p.s = p.out.State
	if p.s.Rollout.Back {
		p.s.Tag = Target{Digest: p.s.Rollout.Previous, By: "berth rollout", Moved: p.now}
		return p.decide(r)
	}
	return p.out.Answer
}

// report has a node say "running v1", "deploying v1 v2" or "failed v1 v2", the first
// version being what it runs.
func (p *play) report(node, what string) Answer {
	p.t.Helper()
	f := append(strings.Fields(what), "", "")
	r := &Report{Node: node, State: f[0], Running: v(f[1]), Target: v(f[2]), Interval: Duration(30 * time.Second), Since: p.now, By: "n"}
	if f[1] == "-" {
		r.Running = ""
	}
	return p.decide(r)
}

// step is "NODE: WHAT -> VERSION[, REASON]", "+DURATION", or a command.
func (p *play) step(step string) {
	p.t.Helper()
	switch word, rest, _ := strings.Cut(step, " "); {
	case step[0] == '+':
		d, err := time.ParseDuration(step[1:])
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = p.now.Add(d)
	case word == "tag":
		name, policy, _ := strings.Cut(rest, " ")
		p.tag(name, policy)
	case word == "untag":
		p.s.Tag = Target{}
	case word == "pause":
		p.must(pause(&p.s, "bob", p.now))
		p.decide(nil)
	case word == "resume":
		p.must(resume(&p.s, p.now))
		p.decide(nil)
	case word == "undo":
		to, err := undoable(&p.s)
		p.must(err)
		p.s.Tag = Target{Digest: to, Moved: p.now}
		p.decide(nil)
	case word == "tick":
		p.decide(nil)
	case word == "is":
		if got := strings.TrimSuffix(p.s.Rollout.State+" "+p.s.Rollout.Reason, " "); got != rest {
			p.t.Errorf("the rollout is %q, want %q", got, rest)
		}
	default:
		said, want, _ := strings.Cut(rest, " -> ")
		digest, reason, _ := strings.Cut(want, ", ")
		if digest == "-" {
			digest = ""
		}
		a := p.report(strings.TrimSuffix(word, ":"), said)
		if a.Digest != v(digest) || a.Reason != reason {
			p.t.Errorf("%s: got %s, %q", step, a.Digest, a.Reason)
		}
	}
}

func (p *play) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

const both = `{"parallel":2}`

func TestDecide(t *testing.T) {
	const turn1, turn2 = "not its turn: 1 of 1 node deploys", "not its turn: 2 of 2 nodes deploy"
	for name, steps := range map[string][]string{
		"no tag":       {"a: running - -> -, there is no such tag", "is"},
		"one by one":   {"tag 1", "a: running - -> 1", "b: running - -> -, " + turn1, "a: deploying - 1 -> 1", "b: running - -> -, " + turn1, "a: running 1 -> 1", "b: running - -> 1", "b: running 1 -> 1", "is done"},
		"two":          {"tag 1 " + both, "a: running - -> 1", "b: running - -> 1", "c: running - -> -, " + turn2, "b: running 1 -> 1", "c: running - -> 1"},
		"a share":      {`tag 1 {"parallel":"50%"}`, "a: running - -> 1", "a: running 1 -> 1", "b: running - -> 1", "b: running 1 -> 1", "c: running - -> 1", "c: running 1 -> 1", "d: running - -> 1", "e: running - -> 1", "f: running - -> 1", "g: running - -> -, not its turn: 3 of 3 nodes deploy"},
		"back":         {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "is done", "tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "is failed stopped after 1 failure", "b: running 1 -> 1"},
		"back, all":    {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "c: running 1 -> 1", `tag 2 {"max_failures":1,"parallel":3}`, "a: running 1 -> 2", "b: running 1 -> 2", "c: running 1 -> 2", "a: running 2 -> 2", "b: failed 1 2 -> 1, it failed here: it waits for another version", "is running", "c: failed 1 2 -> 1", "is failed stopped after 2 failures", "a: running 2 -> 1", "a: deploying 2 1 -> 1", "a: running 1 -> 1"},
		"first fails":  {"tag 1", "a: running - -> 1", "a: failed - 1 -> -, it failed here: it waits for another version", "is failed stopped after 1 failure; there is no earlier version to return to", "b: running - -> -, stopped after 1 failure; there is no earlier version to return to"},
		"tolerated":    {`tag 1 {"max_failures":1}`, "a: running - -> 1", "a: failed - 1 -> -, it failed here: it waits for another version", "b: running - -> 1", "b: running 1 -> 1", "is done"},
		"stays":        {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", `tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1, it failed here: it waits for another version", "b: running 1 -> 1, stopped after 1 failure", "+5s", "resume", "is running", "b: running 1 -> 2", "b: running 2 -> 2", "a: running 1 -> 2"},
		"old failure":  {"tag 1", "a: running 1 -> 1", `tag 2 {"on_failure":"pause"}`, "a: running 1 -> 2", "a: failed 1 2 -> 1, it failed here: it waits for another version", "resume", "a: failed 1 2 -> 2", "is running", "+1s", "a: failed 1 2 -> 1, it failed here: it waits for another version", "is failed stopped after 1 failure"},
		"dead deploys": {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: deploying 1 2 -> 2", "+80s", "b: running 1 -> 1, " + turn1, "+15s", "tick", "is failed stopped after 1 failure", "b: running 1 -> 1", "a: deploying 1 2 -> 1"},
		"too long":     {"tag 1", "a: running 1 -> 1", `tag 2 {"deadline":"1m"}`, "a: running 1 -> 2", "a: deploying 1 2 -> 2", "+50s", "a: deploying 1 2 -> 2", "+11s", "a: deploying 1 2 -> 1", "is failed stopped after 1 failure"},
		"dead waits":   {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "is done", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "is running", "+50s", "a: running 2 -> 2", "+50s", "a: running 2 -> 2", "is done"},
		"pause":        {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "pause", "b: running 1 -> 1, paused", "a: deploying 1 2 -> 2", "a: running 2 -> 2", "tag 3", "a: running 2 -> 2, paused", "resume", "b: running 1 -> 3", "b: running 3 -> 3", "a: running 2 -> 3", "a: running 3 -> 3", "is done"},
		"undo":         {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "b: running 1 -> 2", "undo", "is undone", "a: running 2 -> 1", "b: deploying 1 2 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "b: running 1 -> 1, " + turn1, "is running"},
		"by hand":      {"tag 1", "a: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "is done", "tag 1", "a: running 2 -> 1", "is undone"},
		"never done":   {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "tag 3", "a: running 2 -> 3", "a: failed 2 3 -> 1", "is failed stopped after 1 failure"},
		"done unasked": {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "+50s", "a: running 2 -> 2", "is running", "+45s", "tag 3", "a: running 2 -> 3", "a: failed 2 3 -> 2", "is failed stopped after 1 failure"},
		"once more":    {"tag 1", "a: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: failed 1 2 -> 1", "tag 2", "+1s", "a: running 1 -> 2", "is running"},
		"deleted":      {"tag 1", "a: running 1 -> 1", "untag", "a: running 1 -> 1, the tag was deleted", "b: running - -> -, the tag was deleted", "tag 1", "b: running - -> 1"},
		"away":         {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2 " + both, "a: running 1 -> 2", "b: running 1 -> 2", "+1h", "tick", "is running", "a: running 2 -> 2", "+80s", "b: running 2 -> 2", "is done"},
		"not so away":  {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2 " + both, "a: running 1 -> 2", "b: running 1 -> 2", "+1h", "a: running 2 -> 2", "+60s", "a: running 2 -> 2", "+31s", "a: running 2 -> 1", "is failed stopped after 1 failure"},
		"clock back":   {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: deploying 1 2 -> 2", "+-5h", "b: running 1 -> 1, " + turn1, "+80s", "b: running 1 -> 1, " + turn1, "+15s", "tick", "is failed stopped after 1 failure"},
		"back, done":   {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", "tag 2", "a: running 1 -> 2", "a: running 2 -> 2", "+-5h", "a: running 2 -> 2", "+80s", "a: running 2 -> 2", "+15s", "tick", "is done"},
		"clock ahead":  {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", `tag 2 {"deadline":"2m"}`, "a: running 1 -> 2", "a: deploying 1 2 -> 2", "+5h", "a: deploying 1 2 -> 2", "b: running 1 -> 1, " + turn1, "is running", "+60s", "a: deploying 1 2 -> 2", "+61s", "a: deploying 1 2 -> 1", "is failed stopped after 1 failure"},
		"labels":       {`tag 1 {"nodes":{"site":"x"}}`, "a: running - -> -, not chosen by labels", "is running"},
		"window":       {"tag 1", "a: running 1 -> 1", "b: running 1 -> 1", `tag 2 {"window":{"from":"13:00","to":"13:02"}}`, "a: running 1 -> 1, outside the window, which opens at 2026-11-27T13:00:00Z", "+60m", "a: running 1 -> 2", "+80s", "a: deploying 1 2 -> 2", "+80s", "a: deploying 1 2 -> 2", "b: running 1 -> 1, outside the window, which opens at 2026-11-28T13:00:00Z"},
		"broken":       {"tag 1", "a: running 1 -> 1", `tag 2 {"parallel":0}`, `a: running 1 -> 1, paused: its policy cannot be read: parallel: want a number from 1, or a share from "1%" to "100%", not 0`, "tag 3", "a: running 1 -> 3"},
		"late comer":   {"tag 1", "a: running 1 -> 1", "is done", "b: running - -> 1", "b: failed - 1 -> -, it failed here: it waits for another version", "is done", "a: running 1 -> 1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			for _, s := range steps {
				p.step(s)
				if t.Failed() {
					t.Fatalf("at %q", s)
				}
			}
		})
	}
}

// TestLabels has a version go to the nodes that the policy chooses, and all nodes that
// run it return from it, whoever the older policy chose.
func TestLabels(t *testing.T) {
	p := newPlay(t)
	say := func(node, what string, labels map[string]string) Answer {
		f := append(strings.Fields(what), "")
		return p.decide(&Report{Node: node, State: f[0], Running: v(f[1]), Target: v(f[2]), Labels: labels, Interval: Duration(time.Minute), Since: p.now})
	}
	canary, other := map[string]string{"role": "canary", "x": "y"}, map[string]string{"role": "web"}
	p.tag("1", `{"nodes":{"role":"web"}}`)
	say("w", "running 1", other)
	p.tag("2", `{"nodes":{"role":"canary"},"parallel":5}`)
	if a := say("w", "running 1", other); a.Digest != v("1") || a.Reason != "not chosen by labels" {
		t.Errorf("%+v", a)
	}
	if a := say("c", "running 0", canary); a.Digest != v("2") {
		t.Errorf("%+v", a)
	}
	say("c", "deploying 0 2", canary)
	if a := say("c", "failed 0 2", canary); a.Digest != v("1") || p.s.Rollout.State != Failed {
		t.Errorf("%+v %+v", a, p.s.Rollout)
	}
}

// TestVersions has those told of something new whom it may concern, and nobody else.
func TestVersions(t *testing.T) {
	p := newPlay(t)
	p.tag("1", "")
	turn := p.report("a", "running -")
	waits := p.report("b", "running -")
	differs := func(a Answer) bool { return Differs(a.Version, p.s.Tag.Digest, &p.s.Rollout) }
	if differs(turn) || differs(waits) {
		t.Fatal("there is nothing new")
	}
	p.report("a", "deploying - 1")
	if differs(turn) || differs(waits) {
		t.Error("there is nothing new while a node deploys")
	}
	done := p.report("a", "running 1")
	if differs(turn) || !differs(waits) || differs(done) {
		t.Error("a turn that is free concerns those who wait for it")
	}
	p.must(pause(&p.s, "", p.now))
	p.decide(nil)
	if !differs(turn) || !differs(done) {
		t.Error("a pause concerns all")
	}
	done = p.report("a", "running 1")
	p.tag("2", "")
	if !differs(done) {
		t.Error("a tag that was moved concerns all")
	}
}

// TestNext has time alone change things when they are due.
func TestNext(t *testing.T) {
	p := newPlay(t)
	p.tag("1", "")
	p.report("a", "running 1")
	p.report("b", "running 1")
	p.tag("2", `{"window":{"from":"12:30","to":"13:00"}}`)
	p.report("a", "running 1")
	next := func(want string) {
		t.Helper()
		if got := p.s.Rollout.Next.Format("15:04:05"); got != want {
			t.Fatalf("next at %s, want %s", got, want)
		}
	}
	next("12:01:30") // b may not be there any more
	p.now = p.s.Rollout.Next
	p.decide(nil)
	p.now = p.now.Add(27 * time.Minute)
	waits := p.report("a", "running 1")
	next("12:30:00")
	p.now = time.Date(2026, 11, 27, 12, 30, 1, 0, time.UTC)
	p.decide(nil)
	if !Differs(waits.Version, p.s.Tag.Digest, &p.s.Rollout) {
		t.Error("the window has opened, and nobody is told")
	}
	if a := p.report("a", "running 1"); a.Digest != v("2") {
		t.Errorf("%+v", a)
	}
}

func TestForgotten(t *testing.T) {
	p := newPlay(t)
	p.tag("1", "")
	p.report("a", "running 1")
	p.now = p.now.Add(KeepNodes + time.Second)
	p.report("b", "running 1")
	if fmt.Sprint(p.out.Gone, p.out.Dirty) != "[a] [b]" || len(p.s.Nodes) != 1 {
		t.Errorf("gone %v, dirty %v", p.out.Gone, p.out.Dirty)
	}
	p.now = p.now.Add(KeepNodes + time.Second)
	p.report("b", "running 1")
	if fmt.Sprint(p.out.Gone, p.out.Dirty) != "[] [b]" {
		t.Errorf("gone %v, dirty %v", p.out.Gone, p.out.Dirty)
	}
}

// TestQuiet has a report that says nothing new soon after another one change nothing.
func TestQuiet(t *testing.T) {
	p := newPlay(t)
	p.tag("1", "")
	r := &Report{Node: "a", State: NodeRunning, Running: v("1"), Interval: Duration(time.Minute), Labels: map[string]string{}}
	p.decide(r)
	for after, dirty := range map[time.Duration]bool{0: false, 14 * time.Second: false, 16 * time.Second: true} {
		if out := Decide(p.s, r, p.now.Add(after)); len(out.Dirty) > 0 != dirty || out.Changed || out.Log {
			t.Errorf("after %s: %v, %v", after, out.Dirty, out.Changed)
		}
	}
}
