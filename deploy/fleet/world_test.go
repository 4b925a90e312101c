package fleet

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

const ref = "registry.example:5000/stacks/shop:prod"

// version is the digest of one.
func version(name string) digest.Digest { return digest.FromString(name) }

// nameOf is the name of a version that has been used in tests.
func nameOf(d digest.Digest) string {
	for _, name := range []string{"a", "b", "c", "bad", "crash", "no image"} {
		if version(name) == d {
			return name
		}
	}
	if d == "" {
		return "by hand"
	}
	return d.String()
}

// world is a node whose stacks are no more than records, and the registry of its tag.
type world struct {
	t   *testing.T
	dir string
	log bytes.Buffer // of one goroutine: the follower's, and the test's when that has ended

	mu sync.Mutex
	// The stacks.
	revisions []deploy.Revision
	current   int // revision in service
	going     int // revision that is deployed
	ended     chan struct{}
	undo      chan struct{}
	takes     time.Duration
	fails     map[digest.Digest]func() error
	did       []string
	damage    string // why its files cannot be read
	// The registry.
	tag     digest.Digest
	waits   string // reason why nobody may deploy
	attempt int64
	moved   chan struct{} // closed with each change
	changes int
	turns   int   // that were free: only who waits hears of them
	away    error // what it fails with
	noBerth bool
	noWatch bool
	slow    time.Duration // to fetch a stack
	reports []runner.FollowReport
	calls   map[string]int
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: t.TempDir(), takes: time.Second, fails: map[digest.Digest]func() error{}, moved: make(chan struct{}), calls: map[string]int{}}
}

func (w *world) follower() *Follower {
	return New(w, w, Options{
		Ref: ref, Stack: "shop", Node: "n1", Labels: map[string]string{"role": "web"}, Dir: w.dir,
		Interval: 30 * time.Second, Poll: 2 * time.Second, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

// run follows until the returned function is called.
func (w *world) run() (f *Follower, stop func()) {
	f = w.follower()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	return f, func() {
		cancel()
		<-done
	}
}

// set changes something that everybody hears of.
func (w *world) set(fn func()) {
	w.wake(func() {
		fn()
		w.changes++
	})
}

// wake changes something.
func (w *world) wake(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
	close(w.moved)
	w.moved = make(chan struct{})
}

func (w *world) move(name string) { w.set(func() { w.tag = version(name) }) }

// after lets a time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Deploy implements Manager.
func (w *world) Deploy(ctx context.Context, req deploy.Request, watch func(deploy.Event)) (deploy.Revision, error) {
	w.mu.Lock()
	if w.going != 0 {
		w.mu.Unlock()
		return deploy.Revision{}, runner.Errorf(runner.ErrConflict, "the stack is being deployed")
	}
	n := w.begin(req.By, req.From)
	ended := w.ended
	w.mu.Unlock()
	watch(deploy.Event{Kind: deploy.EventStep, Message: "create"})
	select {
	case <-ctx.Done():
		return deploy.Revision{}, ctx.Err()
	case <-ended:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rev := w.revisions[n-1]
	if fail := w.fails[digestOf(req.From, ref)]; rev.Outcome == deploy.RolledBack && fail != nil {
		err := fail()
		if f, ok := errors.AsType[*deploy.Failure](err); ok {
			f.Revision = rev
		}
		return rev, err
	}
	if rev.Outcome != deploy.Deployed {
		return rev, &deploy.Failure{Revision: rev, Reason: "it was taken back"}
	}
	return rev, nil
}

// begin begins a deployment, whoever waits for it.
func (w *world) begin(by, from string) int {
	n := len(w.revisions) + 1
	w.revisions = append(w.revisions, deploy.Revision{Number: n, By: by, From: from, Outcome: deploy.Deploying})
	w.going, w.ended, w.undo = n, make(chan struct{}), make(chan struct{})
	w.did = append(w.did, "deploy "+nameOf(digestOf(from, ref)))
	ended, undo, takes := w.ended, w.undo, w.takes
	go func() {
		outcome := deploy.Deployed
		select {
		case <-time.After(takes):
		case <-undo:
			outcome = deploy.Cancelled
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if outcome == deploy.Deployed && w.fails[digestOf(from, ref)] != nil {
			outcome = deploy.RolledBack
		}
		if outcome == deploy.Deployed {
			w.current = n
		}
		w.revisions[n-1].Outcome, w.going = outcome, 0
		close(ended)
	}()
	return n
}

// Cancel implements Manager.
func (w *world) Cancel(context.Context, string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.going == 0 {
		return runner.Errorf(runner.ErrNotFound, "nothing is deployed")
	}
	w.did = append(w.did, "cancel")
	close(w.undo)
	return nil
}

// Status implements Manager.
func (w *world) Status(context.Context, string) (deploy.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.revisions) == 0 {
		return deploy.Status{}, runner.Errorf(runner.ErrNotFound, "no such stack")
	}
	return deploy.Status{Name: "shop", Revision: w.current, Deploying: w.going, Error: w.damage}, nil
}

// History implements Manager.
func (w *world) History(context.Context, string) ([]deploy.Revision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.damage != "" {
		return nil, runner.Errorf(runner.ErrPrecondition, "%s", w.damage)
	}
	list := slices.Clone(w.revisions)
	slices.Reverse(list)
	return list, nil
}

// answer is what the registry says; nobody else has a turn.
func (w *world) answer(r runner.FollowReport) runner.FollowAnswer {
	a := runner.FollowAnswer{Digest: w.tag, Tag: w.tag, Version: strconv.Itoa(w.changes), Rollout: runner.FollowRollout{Attempt: w.attempt}}
	if w.waits != "" && r.Running != w.tag {
		a.Digest, a.Reason = r.Running, w.waits
		a.Version += "." + strconv.Itoa(w.turns)
	}
	return a
}

// Report implements Source.
func (w *world) Report(_ context.Context, r runner.FollowReport) (runner.FollowAnswer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls["report"]++
	if w.away != nil {
		return runner.FollowAnswer{}, w.away
	}
	if w.noBerth {
		return runner.FollowAnswer{}, runner.Errorf(runner.ErrNotFound, "404")
	}
	w.reports = append(w.reports, r)
	return w.answer(r), nil
}

// Watch implements Source.
func (w *world) Watch(ctx context.Context, version string, most time.Duration) (string, error) {
	end := time.After(most)
	for {
		w.mu.Lock()
		now, moved, err := strconv.Itoa(w.changes), w.moved, w.away
		if strings.Contains(version, ".") {
			now += "." + strconv.Itoa(w.turns)
		}
		if w.noWatch {
			err = runner.Errorf(runner.ErrNotFound, "404")
		}
		w.calls["watch"]++
		w.mu.Unlock()
		if err != nil || now != version {
			return now, err
		}
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case <-end:
			return version, nil
		case <-moved:
		}
	}
}

// Head implements Source.
func (w *world) Head(context.Context, digest.Digest) (digest.Digest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls["head"]++
	if w.away == nil && w.tag == "" {
		return "", runner.Errorf(runner.ErrNotFound, "404")
	}
	return w.tag, w.away
}

// Stack implements Source.
func (w *world) Stack(ctx context.Context, d digest.Digest) (deploy.Request, error) {
	w.mu.Lock()
	slow, away := w.slow, w.away
	w.mu.Unlock()
	if !pause(ctx, slow) {
		return deploy.Request{}, ctx.Err()
	}
	if d == version("no stack") {
		return deploy.Request{}, runner.Errorf(runner.ErrInvalid, "it is no stack")
	}
	return deploy.Request{Stack: deploy.Stack{Name: "shop"}}, away
}

// check compares what the manager was asked to do since the last call, and what is in
// service then.
func (w *world) check(running string, did ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.did, did) {
		w.t.Errorf("it did %q: want %q", w.did, did)
	}
	w.did = nil
	now := ""
	if w.current > 0 {
		now = nameOf(digestOf(w.revisions[w.current-1].From, ref))
	}
	if now != running {
		w.t.Errorf("%q runs: want %q", now, running)
	}
}

// told compares the reports since the last call, without those that repeat.
func (w *world) told(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, r := range w.reports {
		s := string(r.State)
		if r.Running != "" {
			s += " has " + nameOf(r.Running)
		}
		if r.Target != "" {
			s += " target " + nameOf(r.Target)
		}
		if r.Error != "" {
			s += ": " + r.Error + " " + strings.Join(r.Log, "|")
		}
		if len(got) == 0 || got[len(got)-1] != s {
			got = append(got, s)
		}
		if r.Node != "n1" || r.Labels["role"] != "web" || r.Interval != 30*time.Second || r.Since.IsZero() {
			w.t.Errorf("reported %+v", r)
		}
	}
	w.reports = nil
	if !slices.Equal(got, want) {
		w.t.Errorf("told %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// count returns how often each call was made since the last time.
func (w *world) count(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.calls[call]
	w.calls[call] = 0
	return n
}

// crash is a container that ends, and pull an image that cannot be had.
func crash() error {
	return &deploy.Failure{Service: "web", Container: "shop-web-r2-1", ExitCode: 3, Reason: "ended with 3", Log: []string{"one", "two"}}
}

func pull() error { return &deploy.Failure{Service: "web", Reason: "connection refused"} }

// inBubble runs a test whose time is its own.
func inBubble(t *testing.T, test func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t)) })
}

func (w *world) logged(n int, what string) {
	w.t.Helper()
	if got := strings.Count(w.log.String(), what); got != n {
		w.t.Errorf("%q is %d times in the log, want %d:\n%s", what, got, n, w.log.String())
	}
}
