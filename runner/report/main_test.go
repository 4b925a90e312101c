package report_test

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/report"
)

func TestMain(m *testing.M) { berthtest.Main(m) }

// sent is a report that a node has made.
type sent struct {
	at    time.Duration // since the start
	host  string
	login string // user:password
	runner.UseReport
}

// node is an engine that runs what a test says.
type node struct {
	t     *testing.T
	start time.Time
	// answer is what a registry does with the report; nil keeps all.
	answer func(ctx context.Context, s sent) (unknown []reference.Canonical, err error)

	mu     sync.Mutex
	images []reference.Canonical
	heard  chan events.Message // closed if the listener is too slow
	sent   []sent
	said   bytes.Buffer
}

func newNode(t *testing.T) *node {
	return &node{t: t, start: time.Now(), heard: make(chan events.Message, 1000)}
}

func (n *node) ImagesInUse(context.Context) []reference.Canonical {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]reference.Canonical(nil), n.images...)
}

func (n *node) Events(ctx context.Context, _, _ time.Time, filters runner.Filters) iter.Seq[events.Message] {
	if !filters.Match("type", "container") || !filters.Match("event", "start") || filters.Match("event", "exec_create") {
		n.t.Errorf("listens for %v", filters)
	}
	n.mu.Lock()
	heard := n.heard
	n.mu.Unlock()
	return func(yield func(events.Message) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case m, ok := <-heard:
				if !ok || !yield(m) {
					return
				}
			}
		}
	}
}

func (n *node) ReportUse(ctx context.Context, host string, login *registry.AuthConfig, r runner.UseReport) ([]reference.Canonical, error) {
	s := sent{at: time.Since(n.start), host: host, UseReport: r}
	if login != nil {
		s.login = login.Username + ":" + login.Password
	}
	n.mu.Lock()
	n.sent = append(n.sent, s)
	n.mu.Unlock()
	if n.answer == nil {
		return nil, nil
	}
	return n.answer(ctx, s)
}

// runs sets what runs, and has an event tell of it.
func (n *node) runs(names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images = nil
	for _, name := range names {
		n.images = append(n.images, canonical(n.t, name))
	}
	n.heard <- events.Message{Type: events.ContainerEventType, Action: events.ActionStart}
}

// reports returns those to a host since the last call.
func (n *node) reports(host string) []sent {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list, left []sent
	for _, s := range n.sent {
		if s.host == host {
			list = append(list, s)
		} else {
			left = append(left, s)
		}
	}
	n.sent = left
	return list
}

// Write takes the log.
func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.said.Write(p)
}

// log returns the lines that were logged since the last call.
func (n *node) log() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.said.Reset()
	return strings.Split(strings.TrimSuffix(n.said.String(), "\n"), "\n")
}

// report has a Reporter run until the test or the returned function ends.
func (n *node) report(e report.Engine, o report.Options) (stop func()) {
	o.Node, o.Log = "n1", slog.New(slog.NewTextHandler(n, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		report.New(e, o).Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	n.t.Cleanup(stop)
	return stop
}

func canonical(t *testing.T, name string) reference.Canonical {
	t.Helper()
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return named.(reference.Canonical)
}
