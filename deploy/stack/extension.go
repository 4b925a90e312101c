package stack

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-registry/berth/deploy"
)

// extension is the key of a Compose file that is Berth's own.
const extension = "x-berth"

// serviceExtension is x-berth of a service.
type serviceExtension struct {
	strategy deploy.Strategy // empty: not stated
	steps    []deploy.CanaryStep
	drain    time.Duration
}

// extension reads x-berth of the service at p.
func (t *translation) extension(p keys) serviceExtension {
	out := serviceExtension{drain: DefaultDrain}
	p = p.at(extension)
	if !t.has(p) {
		return out
	}
	m := t.object(p, "strategy", "steps", "drain", "job")
	if v, ok := m["strategy"]; ok {
		out.strategy = deploy.Strategy(t.word(p.at("strategy"), v, "blue-green", "rolling", "canary"))
	}
	if v, ok := m["drain"]; ok {
		out.drain = t.duration(p.at("drain"), v)
	}
	steps, stated := m["steps"]
	switch {
	case stated && out.strategy != deploy.Canary:
		t.addf(p.at("steps"), "they are those of strategy canary")
	case stated:
		out.steps = t.steps(p.at("steps"), steps)
	case out.strategy == deploy.Canary:
		t.addf(p.at("strategy"), "a canary needs steps: [{weight: 10, pause: 30s}, ...]")
	}
	if t.jobs[p[1]] && out.strategy != "" {
		t.addf(p.at("strategy"), "a job has none: it is run once for each version")
	}
	return out
}

func (t *translation) steps(p keys, v any) []deploy.CanaryStep {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		t.addf(p, "must be a list of {weight: PERCENT, pause: DURATION}")
		return nil
	}
	var out []deploy.CanaryStep
	for i := range list {
		at := p.index(i)
		m := t.object(at, "weight", "pause")
		var s deploy.CanaryStep
		if v, ok := m["weight"]; ok {
			s.Weight = t.integer(at.at("weight"), v, 1, 99)
		} else {
			t.addf(at, "the step needs a weight")
		}
		if v, ok := m["pause"]; ok {
			s.Pause = t.duration(at.at("pause"), v)
		} else {
			t.addf(at, "the step needs a pause")
		}
		if i > 0 && s.Weight > 0 && s.Weight <= out[i-1].Weight {
			t.addf(at, "the weight must be more than the %d of the step before", out[i-1].Weight)
		}
		out = append(out, s)
	}
	return out
}

// jobOf returns job of x-berth, and whether it is stated.
func (t *translation) jobOf(service keys) (job, stated bool) {
	v := lookup(t.model, service.at(extension, "job"))
	if v == nil {
		return false, false
	}
	return t.boolean(service.at(extension, "job"), v), true
}

// topExtension reads x-berth at the top of the file.
func (t *translation) topExtension(s *deploy.Stack) *Rollout {
	p := keys{extension}
	if !t.has(p) {
		return nil
	}
	m := t.object(p, "keep", "rollout")
	if v, ok := m["keep"]; ok {
		s.Keep = t.integer(p.at("keep"), v, 0, 100)
	}
	if _, ok := m["rollout"]; ok {
		return t.rollout(p.at("rollout"))
	}
	return nil
}

// object returns the mapping at p, which may have these keys and no others.
func (t *translation) object(p keys, known ...string) map[string]any {
	m, ok := lookup(t.model, p).(map[string]any)
	if !ok {
		t.addf(p, "must be a mapping of %s", strings.Join(known, ", "))
		return nil
	}
	for key := range m {
		if !slices.Contains(known, key) {
			t.addf(p.at(key), "no such key: there are %s", strings.Join(known, ", "))
		}
	}
	return m
}

// word returns a string that is one of some, or none.
func (t *translation) word(p keys, v any, known ...string) string {
	s, ok := v.(string)
	if !ok || !slices.Contains(known, s) {
		t.addf(p, "%v is none of %s", v, strings.Join(known, ", "))
		return ""
	}
	return s
}

// integer returns a number in a range. One of a variable is a string.
func (t *translation) integer(p keys, v any, low, high int) int {
	n, ok := v.(int)
	if s, text := v.(string); text {
		parsed, err := strconv.Atoi(s)
		n, ok = parsed, err == nil
	}
	if !ok || n < low || n > high {
		t.addf(p, "%v is no number from %d to %d", v, low, high)
		return 0
	}
	return n
}

// boolean returns true or false. One of a variable is a string.
func (t *translation) boolean(p keys, v any) bool {
	switch v {
	case true, "true":
		return true
	case false, "false":
		return false
	}
	t.addf(p, "%v is neither true nor false", v)
	return false
}

// duration returns a time like 30s or 1m30s, which is not less than 0.
func (t *translation) duration(p keys, v any) time.Duration {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		t.addf(p, "%v is no time like 30s or 5m", v)
		return 0
	}
	return d
}
