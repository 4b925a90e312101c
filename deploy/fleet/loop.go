package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
	// look is how often a deployment is looked at that somebody else waits for.
	look = 500 * time.Millisecond
	// spread is how much later than all others a node asks when the registry has told
	// all at once.
	spread = 200 * time.Millisecond
)

// loop is a Follower that runs. All but what is said of it is of one goroutine.
type loop struct {
	*Follower
	memory  memory
	running sync.WaitGroup // all goroutines

	now    situation
	answer runner.FollowAnswer // the last one
	asked  time.Time           // when the registry was asked last
	posted time.Time           // when by a report

	done       chan result // of the deployment that was started here
	started    bool        // one was
	abort      func()      // ends waiting for it
	cancelling bool        // what goes on is being taken back
	tryAgain   time.Time   // not before

	polling  bool // the registry is no Berth
	failures int  // of asking, in a row
	said     telling
	watching *watching // nil: not now
}

// turn looks at what runs, tells the registry, and does what that says; then it waits
// until there is something else to tell or to hear.
func (l *loop) turn(ctx context.Context) {
	if err := l.observe(ctx); err != nil {
		l.tellManager(ctx, err)
		pause(ctx, maxPause/2)
		return
	}
	a, err := l.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	l.tellAnswer(ctx, a, err)
	if err != nil {
		l.rest(ctx, l.pauseAfter(err))
		return
	}
	l.failures, l.answer = 0, a
	l.forgive(ctx, a.Tag)
	if l.act(ctx) {
		return
	}
	interval := l.o.Interval
	if l.polling {
		interval = l.o.Poll
	}
	l.rest(ctx, interval-rand.N(interval/10+1)) //nolint:gosec // it is no secret
}

// act does what the last answer says. It returns true if there is something to tell.
func (l *loop) act(ctx context.Context) bool {
	what, d := decide(l.now, l.answer)
	switch {
	case what == cancelIt && !l.cancelling:
		l.cancel(ctx, d)
	case what == deployIt && !l.started && !time.Now().Before(l.tryAgain):
		l.start(ctx, d)
		return true
	}
	return false
}

// observe looks at what the manager has, and publishes it.
func (l *loop) observe(ctx context.Context) error {
	l.collect(ctx)
	st, err := l.manager.Status(ctx, l.o.Stack)
	if errors.Is(err, runner.ErrNotFound) {
		l.see(ctx, situation{})
		return nil
	}
	if err != nil {
		return err
	}
	if st.Error != "" { // its files cannot be read: whatever comes fails here, until they can
		l.see(ctx, situation{running: l.now.running, unusable: st.Error})
		return nil
	}
	history, err := l.manager.History(ctx, l.o.Stack)
	if err != nil && !errors.Is(err, runner.ErrNotFound) {
		return err
	}
	l.see(ctx, observe(st, history, l.o.Ref))
	return nil
}

// see takes a situation for the present one.
func (l *loop) see(ctx context.Context, s situation) {
	if l.started && s.busy == 0 {
		// The stack is being fetched, or it has just ended.
		s.busy, s.deploying = unknown, l.memory.Trying
	}
	if s.busy == 0 {
		l.cancelling = false
		if s.running != "" && s.running == l.memory.Trying { // it was resumed by the manager
			l.memory.Trying, l.memory.Tries = "", 0
			l.remember(ctx)
		}
	}
	s.failed = l.memory.Failed
	if s.foreign && !l.now.foreign {
		l.o.Log.WarnContext(ctx, "the stack was deployed by somebody else: the fleet takes it over")
	}
	l.now = s
	state, target := l.state()
	l.change(func(st *deploy.Following) {
		if st.State != state || st.Target != target || st.Since.IsZero() {
			st.Since = time.Now()
		}
		st.State, st.Running, st.Target = state, s.running, target
		st.Error, st.Log = "", nil
		switch {
		case s.unusable != "":
			st.Error = line(s.unusable)
		case state == runner.FollowFailed:
			st.Error, st.Log, st.Since = s.failed.Error, s.failed.Log, s.failed.At
		}
		if state != runner.FollowDeploying {
			st.Step = ""
		}
	})
}

// state says how the present situation is called, and what version it is about.
func (l *loop) state() (runner.FollowState, digest.Digest) {
	switch s := l.now; {
	case s.unusable != "" && l.answer.Tag != "":
		return runner.FollowFailed, l.answer.Tag
	case s.unusable != "":
		return runner.FollowRunning, ""
	case s.busy != 0 && s.deploying != "":
		return runner.FollowDeploying, s.deploying
	case l.memory.Trying != "" && l.memory.Trying == l.answer.Digest: // it is tried again
		return runner.FollowDeploying, l.memory.Trying
	case s.failed.Digest != "":
		return runner.FollowFailed, s.failed.Digest
	}
	return runner.FollowRunning, ""
}

// ask tells the registry how this node is doing, and returns what it is to run.
func (l *loop) ask(ctx context.Context) (runner.FollowAnswer, error) {
	l.asked = time.Now()
	if l.polling && l.answer.Tag != "" && time.Since(l.posted) < l.o.Interval {
		if d, err := l.source.Head(ctx, l.answer.Tag); err != nil || d == l.answer.Tag {
			return l.answer, err
		}
		// What a HEAD names is taken only if nobody says whose turn it is.
	}
	l.posted = time.Now()
	a, err := l.source.Report(ctx, l.report())
	if !errors.Is(err, runner.ErrNotFound) {
		l.polling = err != nil && l.polling
		return a, err
	}
	l.polling = true
	d, err := l.source.Head(ctx, l.answer.Tag)
	if errors.Is(err, runner.ErrNotFound) {
		return runner.FollowAnswer{}, nil // there is nothing yet, or no more
	}
	return runner.FollowAnswer{Digest: d, Tag: d}, err
}

// report is what there is to tell.
func (l *loop) report() runner.FollowReport {
	s := l.Status()
	return runner.FollowReport{
		Node: l.o.Node, Labels: l.o.Labels, Running: s.Running, Target: s.Target, State: s.State,
		Error: s.Error, Log: s.Log, Since: s.Since, Interval: l.o.Interval,
	}
}

// forgive forgets how it went with what the tag names no more.
func (l *loop) forgive(ctx context.Context, tag digest.Digest) {
	if tag == "" || l.started {
		return
	}
	was := l.memory
	if l.memory.Failed.Digest != tag {
		l.memory.Failed = failure{}
	}
	if l.memory.Trying != tag {
		l.memory.Trying, l.memory.Tries, l.tryAgain = "", 0, time.Time{}
	}
	if was.Failed.Digest != l.memory.Failed.Digest || was.Trying != l.memory.Trying {
		l.remember(ctx)
		l.see(ctx, l.now)
	}
}

// rest waits until something has happened, at most d.
func (l *loop) rest(ctx context.Context, d time.Duration) {
	l.watch(ctx)
	if wait := time.Until(l.tryAgain); wait > 0 {
		d = min(d, wait)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		var news <-chan error
		if l.watching != nil {
			news = l.watching.news
		}
		var again <-chan time.Time
		if l.now.busy > 0 && !l.started {
			again = time.After(look)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case r := <-l.done:
			l.finish(ctx, r)
			return
		case err := <-news:
			l.heard(ctx, err)
			return
		case <-again:
			if before := l.now; l.observe(ctx) != nil || l.now.busy != before.busy {
				return
			}
		}
	}
}

// pauseAfter is how long the registry is left alone after an error: not long if it may
// be back any moment, and longer if it does not want to hear this node.
func (l *loop) pauseAfter(err error) time.Duration {
	most := maxPause
	for _, unwilling := range []error{runner.ErrUnauthorized, runner.ErrForbidden, runner.ErrInvalid} {
		if errors.Is(err, unwilling) {
			most = max(l.o.Interval, maxPause)
		}
	}
	d := backoff(l.failures, most)
	l.failures++
	return d
}

// backoff is the pause after so many failures before.
func backoff(failures int, most time.Duration) time.Duration {
	d := min(firstPause<<min(failures, 16), most)
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads nodes over time
}

// pause waits, and says whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
