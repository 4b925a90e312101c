package stack

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // not each host has files of zones
)

// Rollout is how a version spreads over the nodes that follow a stack. The registry
// keeps to it; its defaults are the registry's.
type Rollout struct {
	// Parallel is how many nodes deploy at a time: a number, or a part of them like
	// "20%"; empty: one.
	Parallel string
	// MaxFailures is how many nodes may fail before the rollout stops.
	MaxFailures int
	// OnFailure is what is done then: rollback or pause; empty: rollback.
	OnFailure string
	// Nodes are labels that nodes must have; none: all nodes.
	Nodes map[string]string
	// Window is when nodes may begin to deploy; nil: always.
	Window *Window
	// Deadline is how long a node may take; 0: the registry's own.
	Deadline time.Duration
}

// Window is a time of the day on some days of the week. One whose To is before From
// ends on the next day.
type Window struct {
	Days []string `json:"days,omitempty"` // mon, tue, wed, thu, fri, sat, sun; none: all
	From string   `json:"from,omitempty"` // 02:00; empty: 00:00
	To   string   `json:"to,omitempty"`   // empty: 24:00
	Zone string   `json:"zone,omitempty"` // Europe/Berlin; empty: UTC
}

// MarshalJSON returns the value of the annotation dev.berth.rollout of a published
// stack.
func (r Rollout) MarshalJSON() ([]byte, error) {
	out := struct {
		Parallel    any               `json:"parallel,omitempty"`
		MaxFailures int               `json:"max_failures,omitempty"`
		OnFailure   string            `json:"on_failure,omitempty"`
		Nodes       map[string]string `json:"nodes,omitempty"`
		Window      *Window           `json:"window,omitempty"`
		Deadline    string            `json:"deadline,omitempty"`
	}{MaxFailures: r.MaxFailures, OnFailure: r.OnFailure, Nodes: r.Nodes, Window: r.Window}
	if n, err := strconv.Atoi(r.Parallel); err == nil {
		out.Parallel = n
	} else if r.Parallel != "" {
		out.Parallel = r.Parallel
	}
	if r.Deadline > 0 {
		out.Deadline = r.Deadline.String()
	}
	return json.Marshal(out)
}

// rollout reads the policy at p.
func (t *translation) rollout(p keys) *Rollout {
	out := &Rollout{}
	m := t.object(p, "parallel", "max_failures", "on_failure", "nodes", "window", "deadline")
	for key, v := range m {
		at := p.at(key)
		switch key {
		case "parallel":
			out.Parallel = t.parallel(at, v)
		case "max_failures":
			out.MaxFailures = t.integer(at, v, 0, 1_000_000)
		case "on_failure":
			out.OnFailure = t.word(at, v, "rollback", "pause")
		case "nodes":
			out.Nodes = t.nodes(at, v)
		case "window":
			out.Window = t.window(at)
		case "deadline":
			if out.Deadline = t.duration(at, v); out.Deadline < time.Second || out.Deadline > 24*time.Hour {
				t.addf(at, "a node is given from 1s to 24h")
			}
		}
	}
	return out
}

func (t *translation) parallel(p keys, v any) string {
	if s, ok := v.(string); ok && strings.HasSuffix(s, "%") {
		if !percent.MatchString(s) {
			t.addf(p, "%s is no part from 1%% to 100%%", s)
		}
		return s
	}
	return strconv.Itoa(t.integer(p, v, 1, 1_000_000))
}

var percent = regexp.MustCompile(`^([1-9]\d?|100)%$`)

// These bound labels of nodes, as the registry does.
const (
	maxLabels = 64
	maxLabel  = 256 // bytes of a name, or a value
)

func (t *translation) nodes(p keys, v any) map[string]string {
	m, ok := v.(map[string]any)
	if !ok {
		t.addf(p, "must be a mapping of labels that nodes have")
		return nil
	}
	if len(m) > maxLabels {
		t.addf(p, "%d labels are more than %d", len(m), maxLabels)
	}
	out := map[string]string{}
	for key, v := range m {
		s, ok := v.(string)
		if !ok {
			t.addf(p.at(key), "%v is no string: write it in quotes", v)
		}
		if key == "" || len(key) > maxLabel || len(s) > maxLabel {
			t.addf(p.at(key), "a label has a name and a value of at most %d bytes", maxLabel)
		}
		out[key] = s
	}
	return out
}

var timeOfDay = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$`)

func (t *translation) window(p keys) *Window {
	out := &Window{}
	m := t.object(p, "days", "from", "to", "zone")
	if v, ok := m["from"]; ok {
		out.From = t.clock(p.at("from"), v)
	}
	if v, ok := m["to"]; ok && v != "24:00" {
		out.To = t.clock(p.at("to"), v)
	}
	if cmp.Or(out.From, "00:00") == out.To {
		t.addf(p.at("to"), "the window has no length")
	}
	if v, ok := m["zone"]; ok {
		out.Zone, _ = v.(string)
		if _, err := time.LoadLocation(out.Zone); err != nil || out.Zone == "" || out.Zone == "Local" {
			t.addf(p.at("zone"), "%v is no zone of time like Europe/Berlin", v)
		}
	}
	if v, ok := m["days"]; ok {
		out.Days = t.days(p.at("days"), v)
	}
	return out
}

func (t *translation) clock(p keys, v any) string {
	s, _ := v.(string)
	if !timeOfDay.MatchString(s) {
		t.addf(p, "%v is no time of the day like \"02:00\", in quotes", v)
	}
	return s
}

func (t *translation) days(p keys, v any) []string {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		t.addf(p, "must be a list of days: [mon, tue]")
		return nil
	}
	var out []string
	for i, v := range list {
		day := t.word(p.index(i), v, "mon", "tue", "wed", "thu", "fri", "sat", "sun")
		if day != "" && slices.Contains(out, day) {
			t.addf(p.index(i), "%s stands twice", day)
		}
		out = append(out, day)
	}
	return out
}
