package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Annotation is the annotation of a manifest that has its policy.
const Annotation = "dev.berth.rollout"

const (
	// MaxPolicy is how long a policy may be, in bytes.
	MaxPolicy = 16 << 10
	// DefaultDeadline is what Policy.Deadline is if nothing else is said.
	DefaultDeadline = 10 * time.Minute
	maxDeadline     = 24 * time.Hour
)

// What is done after too many failures.
const (
	OnFailureRollback = "rollback" // the tag moves back, and all nodes return
	OnFailurePause    = "pause"    // nobody else deploys
)

// Policy says how a version comes to the nodes.
type Policy struct {
	// Parallel is how many nodes may deploy at once.
	Parallel Parallel
	// MaxFailures is how many nodes may fail without anything being done about it.
	MaxFailures int
	// OnFailure is OnFailureRollback or OnFailurePause.
	OnFailure string
	// Nodes are labels that a node must have to get the version at all.
	Nodes map[string]string
	// Window is when nodes may begin to deploy; nil is any time.
	Window *Window
	// Deadline is how long a node may take.
	Deadline time.Duration
}

// Parallel is a number of nodes, or a share of those that are there.
type Parallel struct {
	Number  int // 0 if it is a share
	Percent int
}

// Of is how many of n nodes that is, at least 1.
func (p Parallel) Of(n int) int {
	if p.Number > 0 {
		return p.Number
	}
	return max(1, n*p.Percent/100)
}

// DefaultPolicy is the policy of a manifest that says none: one node after the other, and
// back after the first failure.
func DefaultPolicy() Policy {
	return Policy{Parallel: Parallel{Number: 1}, OnFailure: OnFailureRollback, Deadline: DefaultDeadline}
}

// ParsePolicy reads a policy: a JSON object with none but the keys that there are, each at
// most once. Of nothing it is DefaultPolicy. Its errors name the key.
func ParsePolicy(data []byte) (Policy, error) {
	p := DefaultPolicy()
	if len(data) == 0 {
		return p, nil
	}
	if len(data) > MaxPolicy {
		return p, fmt.Errorf("the policy is longer than %d KiB", MaxPolicy>>10)
	}
	err := object(data, "", map[string]func(json.RawMessage) error{
		"parallel":     func(v json.RawMessage) (err error) { p.Parallel, err = parseParallel(v); return err },
		"max_failures": func(v json.RawMessage) error { return number(v, "max_failures", 0, &p.MaxFailures) },
		"on_failure": func(v json.RawMessage) error {
			return oneOf(v, "on_failure", &p.OnFailure, OnFailureRollback, OnFailurePause)
		},
		"nodes": func(v json.RawMessage) (err error) { p.Nodes, err = parseLabels(v); return err },
		"window": func(v json.RawMessage) (err error) {
			p.Window, err = parseWindow(v)
			return err
		},
		"deadline": func(v json.RawMessage) (err error) { p.Deadline, err = parseDeadline(v); return err },
	}, nil)
	if err != nil {
		return DefaultPolicy(), err
	}
	return p, nil
}

func parseParallel(v json.RawMessage) (p Parallel, err error) {
	const want = `parallel: want a number from 1, or a share from "1%%" to "100%%", not %s`
	var s string
	if json.Unmarshal(v, &s) == nil {
		n, ok := strings.CutSuffix(s, "%")
		p.Percent, err = strconv.Atoi(n)
		if !ok || err != nil || p.Percent < 1 || p.Percent > 100 || n[0] == '+' {
			return Parallel{}, fmt.Errorf(want, short(v))
		}
		return p, nil
	}
	if number(v, "", 1, &p.Number) != nil {
		return Parallel{}, fmt.Errorf(want, short(v))
	}
	return p, nil
}

// maxNumber is more nodes than there can be.
const maxNumber = 1_000_000

func number(v json.RawMessage, key string, least int, to *int) error {
	var n *int
	if err := json.Unmarshal(v, &n); err != nil || n == nil || *n < least || *n > maxNumber {
		return fmt.Errorf("%s: want a number from %d, not %s", key, least, short(v))
	}
	*to = *n
	return nil
}

func oneOf(v json.RawMessage, key string, to *string, values ...string) error {
	var s string
	if err := json.Unmarshal(v, &s); err != nil || !slices.Contains(values, s) {
		return fmt.Errorf("%s: want %s, not %s", key, strings.Join(values, " or "), short(v))
	}
	*to = s
	return nil
}

func parseLabels(v json.RawMessage) (map[string]string, error) {
	labels := map[string]string{}
	if err := object(v, "nodes", nil, func(name string, v json.RawMessage) error {
		var s *string
		if err := json.Unmarshal(v, &s); err != nil || s == nil {
			return fmt.Errorf("nodes.%s: want a text, not %s", name, short(v))
		}
		labels[name] = *s
		return nil
	}); err != nil {
		return nil, err
	}
	return labels, CheckLabels(labels)
}

func parseDeadline(v json.RawMessage) (time.Duration, error) {
	var s string
	err := json.Unmarshal(v, &s)
	d, perr := time.ParseDuration(s)
	if err != nil || perr != nil || d < time.Second || d > maxDeadline {
		return 0, fmt.Errorf(`deadline: want a duration from 1s to 24h, such as "10m", not %s`, short(v))
	}
	return d, nil
}

// object reads a JSON object that is the value of a key, or all there is: each of its
// fields by what is known of its name, or by others, which may be nil.
func object(data []byte, key string, known map[string]func(json.RawMessage) error, others func(string, json.RawMessage) error) error {
	of := func(name string) string {
		if key == "" {
			return short([]byte(name))
		}
		return key + "." + short([]byte(name))
	}
	where := ""
	if key != "" {
		where = key + ": "
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("%swant UTF-8", where)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%swant a JSON object, not %s", where, short(data))
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return fmt.Errorf("%swant a JSON object, not %s", where, short(data))
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("%s: want JSON", of(name))
		}
		read := known[name]
		if read == nil && others != nil {
			read = func(v json.RawMessage) error { return others(name, v) }
		}
		switch {
		case seen[name]:
			return fmt.Errorf("%s: is there twice", of(name))
		case read == nil:
			return fmt.Errorf("%s: there is no such key: want one of %s", of(name), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		seen[name] = true
		if err := read(v); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("%sthe JSON object does not end", where)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%swant nothing behind the JSON object", where)
	}
	return nil
}

// short shows what somebody has written, but not all of it.
func short(v []byte) string {
	s := strings.ToValidUTF8(string(bytes.TrimSpace(v)), "?")
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "..."
	}
	return s
}
