package stack

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/rollout"
)

// TestRollout has the registry read what a Compose file says of the rollout.
func TestRollout(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	all := []time.Weekday{0, 1, 2, 3, 4, 5, 6}
	for _, test := range []struct {
		say  string
		want func(*rollout.Policy)
	}{
		{`{}`, func(*rollout.Policy) {}},
		{`{parallel: 3}`, func(p *rollout.Policy) { p.Parallel = rollout.Parallel{Number: 3} }},
		{`{parallel: "4"}`, func(p *rollout.Policy) { p.Parallel = rollout.Parallel{Number: 4} }},
		{`{parallel: 100%}`, func(p *rollout.Policy) { p.Parallel = rollout.Parallel{Percent: 100} }},
		{`{max_failures: 2, on_failure: pause}`, func(p *rollout.Policy) { p.MaxFailures, p.OnFailure = 2, "pause" }},
		{`{on_failure: rollback, deadline: 1m30s}`, func(p *rollout.Policy) { p.Deadline = 90 * time.Second }},
		{`{nodes: {a: b, "c": ""}}`, func(p *rollout.Policy) { p.Nodes = map[string]string{"a": "b", "c": ""} }},
		{`{window: {}}`, func(p *rollout.Policy) { p.Window = &rollout.Window{Days: all, To: 1440, Zone: time.UTC} }},
		{`{window: {from: "22:30", to: "24:00"}}`, func(p *rollout.Policy) { p.Window = &rollout.Window{Days: all, From: 1350, To: 1440, Zone: time.UTC} }},
		{`{window: {days: [sun, mon], to: "04:00", zone: Europe/Berlin}}`, func(p *rollout.Policy) {
			p.Window = &rollout.Window{Days: []time.Weekday{0, 1}, To: 240, Zone: berlin}
		}},
	} {
		l, err := FromYAML(t.Context(), "x", fmt.Appendf(nil, "name: x\nx-berth: {rollout: %s}\nservices: {a: {image: a}}", test.say))
		if err != nil {
			t.Errorf("%s: %v", test.say, err)
			continue
		}
		data, err := json.Marshal(l.Rollout)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rollout.ParsePolicy(data)
		want := rollout.DefaultPolicy()
		test.want(&want)
		if len(got.Nodes) == 0 {
			got.Nodes = nil
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %s, and to the registry %+v (%v), not %+v", test.say, data, got, err, want)
		}
	}
	for _, say := range []string{
		`[]`, `null`, `{parallel: 0}`, `{parallel: -1}`, `{parallel: 0%}`, `{parallel: 101%}`, `{parallel: 1.5}`, `{parallel: +5%}`,
		`{max_failures: -1}`, `{max_failures: 1000001}`, `{on_failure: Pause}`, `{deadline: 0.5s}`, `{deadline: 25h}`, `{deadline: 5}`,
		`{nodes: [a]}`, `{nodes: {a: 1}}`, `{nodes: {a: ` + strings.Repeat("x", 1000) + `}}`,
		`{window: {from: "24:00"}}`, `{window: {to: "00:00"}}`, `{window: {from: 5}}`, `{window: {days: []}}`, `{window: {zone: Local}}`, `{more: 1}`,
	} {
		if l, err := FromYAML(t.Context(), "x", fmt.Appendf(nil, "name: x\nx-berth: {rollout: %s}\nservices: {a: {image: a}}", say)); err == nil {
			data, err := json.Marshal(l.Rollout)
			t.Errorf("%s is taken: %s %v", say, data, err)
		}
	}
}
