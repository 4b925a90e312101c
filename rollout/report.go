package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/berth-registry/berth/registry"
)

// Bounds.
const (
	MaxNodes    = 1000 // that follow a tag
	MaxRefs     = 64   // tags that a node follows
	MaxError    = 1 << 10
	MaxLog      = 8 << 10 // bytes of all lines
	maxLines    = 200
	maxLabels   = 64
	maxLabel    = 256 // bytes of a name, or a value
	allLabels   = 4 << 10
	minInterval = time.Second
	maxInterval = time.Hour
	// MaxReport is how large a report can be, in bytes of JSON.
	MaxReport = 128 << 10
)

// The states of a node.
const (
	NodeRunning   = "running"
	NodeDeploying = "deploying"
	NodeFailed    = "failed"
)

// Errors of reports.
var (
	// ErrInvalid says that a report is not as it should be, and why.
	ErrInvalid = errors.New("invalid report")
	// ErrTaken says that another account reports for the node.
	ErrTaken = errors.New("another account reports for the node")
	// ErrMany says that too many nodes follow the tag, or the node too many tags.
	ErrMany = errors.New("too many")
)

// Ref is a tag of a repository.
type Ref struct{ Repo, Tag string }

// ParseRef reads REPOSITORY:TAG.
func ParseRef(s string) (Ref, error) {
	repo, tag, _ := strings.Cut(s, ":")
	if !registry.ValidRepository(repo) || !registry.ValidTag(tag) {
		return Ref{}, fmt.Errorf("want REPOSITORY:TAG")
	}
	return Ref{repo, tag}, nil
}

func (r Ref) String() string { return r.Repo + ":" + r.Tag }

// Report is what a node says that follows a tag.
type Report struct {
	Node     string            `json:"node"`
	Labels   map[string]string `json:"labels,omitempty"`
	Running  string            `json:"running"`         // digest that serves; empty for none
	Target   string            `json:"target"`          // digest that it deploys, or has failed to; empty for none
	State    string            `json:"state"`           // NodeRunning, NodeDeploying or NodeFailed
	Error    string            `json:"error,omitempty"` // one line
	Log      []string          `json:"log,omitempty"`   // the last lines of what failed
	Since    time.Time         `json:"since"`           // when it came to this state, by its clock
	Interval Duration          `json:"interval"`        // at which it reports at least

	By  string `json:"-"` // account that reports
	Any bool   `json:"-"` // whether it may report for the nodes of others
}

// Duration is a time.Duration that JSON writes as text, such as "30s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// check brings a report into its form, or fails with ErrInvalid. What is too long of an
// error or a log is cut: the end of a log says the most.
func (r *Report) check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	if !nodeName.MatchString(r.Node) {
		return wrong("node: want a name of letters, digits, '.', '_' and '-', not starting with a mark, of at most 253 characters")
	}
	for key, d := range map[string]string{"running": r.Running, "target": r.Target} {
		if _, err := registry.ParseDigest(d); d != "" && err != nil {
			return wrong("%s: want a digest", key)
		}
	}
	switch r.State {
	case NodeRunning:
	case NodeDeploying, NodeFailed:
		if r.Target == "" {
			return wrong("target: want the digest that is %s", r.State)
		}
	default:
		return wrong("state: want %s, %s or %s", NodeRunning, NodeDeploying, NodeFailed)
	}
	if r.State == NodeFailed && r.Since.IsZero() {
		return wrong("since: want the time of the failure")
	}
	if i := time.Duration(r.Interval); i < minInterval || i > maxInterval {
		return wrong("interval: want a duration from %s to %s", minInterval, maxInterval)
	}
	if err := CheckLabels(r.Labels); err != nil {
		return wrong("labels: %v", err)
	}
	r.Error = clean(r.Error, MaxError)
	r.Log = lastLines(r.Log)
	r.Since = r.Since.UTC().Truncate(time.Microsecond) // as it is kept
	return nil
}

// CheckLabels says what is wrong with the labels of a node.
func CheckLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("more than %d labels", maxLabels)
	}
	all := 0
	for name, value := range labels {
		all += len(name) + len(value)
		if name == "" || len(name) > maxLabel || len(value) > maxLabel {
			return fmt.Errorf("a label %s: want a name and a value of at most %d bytes", short([]byte(name)), maxLabel)
		}
	}
	if all > allLabels {
		return fmt.Errorf("%d bytes of names and values: more than %d", all, allLabels)
	}
	return nil
}

// clean makes one line of printable characters, of at most so many bytes.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s[:min(len(s), most)], ""))
	return strings.TrimSpace(s)
}

// lastLines are the last lines that there is room for.
func lastLines(lines []string) []string {
	left, from := MaxLog, len(lines)
	for from > max(0, len(lines)-maxLines) && left > 0 {
		from--
		left -= len(lines[from]) + 1
	}
	var kept []string
	for i, line := range lines[from:] {
		if i == 0 && left < 0 {
			line = line[min(len(line), -left):]
		}
		kept = append(kept, clean(line, MaxLog))
	}
	return kept
}

// Answer is what a node is to do.
type Answer struct {
	// Digest is to run now: what it runs already if it is to wait, empty for nothing.
	Digest string `json:"digest"`
	// Tag is what the tag names; empty if there is none.
	Tag string `json:"tag"`
	// Version is what to wait with for something to change; opaque.
	Version string `json:"version"`
	// Reason is why it waits; empty if it does not.
	Reason string `json:"reason,omitempty"`
	// Rollout is how the rollout is.
	Rollout AnswerRollout `json:"rollout"`
}

// AnswerRollout is what a node is told of the rollout.
type AnswerRollout struct {
	State   string `json:"state"` // empty if there is none
	Attempt int64  `json:"attempt"`
}

// policyOf finds the policy in a manifest.
func policyOf(manifest []byte) string {
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return "" // the registry knows what it is, and that it has no annotations
	}
	return m.Annotations[Annotation]
}
