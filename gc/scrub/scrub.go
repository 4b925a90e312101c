// Package scrub reads all that a registry has stored again and again, slowly, to see
// whether it is still what it should be.
//
// Bytes that are missing, others than their digest says, or unreadable, are checked
// once more, marked as damaged in the metadata, and moved away. From then on they are
// unknown to the registry's clients, so that whoever has them pushes them again, which
// takes the mark away; until then they are never served. A round also finds bytes that
// the metadata does not know, and hands those to collection.
//
// A round's position is in the metadata: a restart goes on where it was. Nothing
// larger than a buffer is held in memory, and no push or pull waits for a scrub, but
// for a push of the very bytes that are just moved away.
//
// What is damaged it cannot mend itself: Options.Heal may, again and again until it
// does, of what can be had anew from somewhere. It does not check what the metadata says, nor the
// bytes of upload sessions.
package scrub

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Registry knows what is stored; a registry.Local is one.
type Registry interface {
	// StoredBlobs returns up to limit blobs behind a digest, and the digest to go on
	// behind, if there are more.
	StoredBlobs(ctx context.Context, after digest.Digest, limit int) ([]registry.StoredBlob, digest.Digest, error)
	// StoredBlob returns a blob; ok is false for one that is unknown.
	StoredBlob(ctx context.Context, d digest.Digest) (blob registry.StoredBlob, ok bool, err error)
	// Suspect marks a blob, so that nobody relies on its bytes, and says whether it
	// did.
	Suspect(ctx context.Context, d digest.Digest, kind storage.DamageKind) (bool, error)
	// Moves says whether it is still for this process to move a blob away that is
	// marked, and until when it has to be done with that.
	Moves(ctx context.Context, d digest.Digest) (until time.Time, ok bool, err error)
	// Settle says what became of a blob that is marked.
	Settle(ctx context.Context, d digest.Digest, kind storage.DamageKind, kept bool) error
	// Sound takes a mark back.
	Sound(ctx context.Context, d digest.Digest) error
	// Damaged lists what is marked.
	Damaged(ctx context.Context) iter.Seq2[registry.DamagedBlob, error]
	// Adopt takes in bytes that the metadata does not know, as garbage.
	Adopt(ctx context.Context, found []storage.BlobInfo) ([]storage.BlobInfo, error)
}

// Options are what a Scrub can be told.
type Options struct {
	// Interval is the time from the beginning of a round to that of the next one; 0
	// for rounds only when somebody asks for one.
	Interval time.Duration
	// Rate is how many bytes a second a round reads; 0 for any number.
	Rate int64
	// Heal, if set, is asked to store damaged bytes anew, by pushing them to one of the
	// repositories that need them; it may take its time. It is asked after they were
	// moved away, and again every hour until they are whole. It fails if it cannot, as
	// who has them is not to be reached: with errors.ErrUnsupported if nobody has
	// them. repos are some of the repositories, if there are many.
	Heal func(ctx context.Context, d digest.Digest, repos []string) error
	// Lead, if set, has fn run while this is the one of several processes that does
	// rounds, until ctx ends. The others check what is doubted.
	Lead func(ctx context.Context, fn func(context.Context))
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what is damaged; nil is none.
	Log *slog.Logger
}

const (
	// lookEvery is how often it is looked whether another process has asked for a round.
	lookEvery = time.Minute
	// saveEvery is how often it is written down how far a round is.
	saveEvery = 10 * time.Second
	// firstRetry and lastRetry are how long a round that failed is put off.
	firstRetry = time.Minute
	lastRetry  = time.Hour
	// maxInRow is how many blobs can be missing or unreadable in a row until it is
	// looked whether it is rather the store that is away than their bytes.
	maxInRow = 16
	// maxDoubts is how many blobs can wait to be checked out of turn.
	maxDoubts = 64
	// doubtPause is how long a blob that was checked is not checked again, whoever
	// doubts it.
	doubtPause = time.Minute
)

// ErrAway says that no blob can be read, so that nothing more is marked as damaged
// until one can, or somebody asks for a round.
var ErrAway = errors.New("no blob can be read: look whether the disk is there and well; if they are all lost, begin a round by hand")

// Scrub checks what is stored. Its methods may be called concurrently.
type Scrub struct {
	blobs    storage.Blobs
	meta     storage.Meta
	registry Registry
	now      func() time.Time
	log      *slog.Logger
	limiter  *rate.Limiter
	wake     chan struct{}      // there is something new for Run to look at
	doubts   chan digest.Digest // to be checked out of turn
	healer   func(context.Context, digest.Digest, []string) error
	hurt     chan struct{} // there is something new to be healed
	lead     func(context.Context, func(context.Context))
	others   bool // there may be other processes

	confirming sync.Mutex // held from a mark to what became of it
	inRow      int        // blobs that could not be read, after the last that could; guarded by confirming
	forced     bool       // somebody has asked for the round: it goes on whatever it finds; guarded by confirming

	bytes atomic.Int64 // read since the start

	mu       sync.Mutex
	interval time.Duration
	state    storage.Scrub          // of the round, newer than what is written down
	running  bool                   // state is valid
	problem  error                  // that the last round ended with
	doubted  map[digest.Digest]bool // is to be checked out of turn, or was lately
}

// New makes a scrub, which does nothing before Run.
func New(blobs storage.Blobs, meta storage.Meta, reg Registry, o Options) *Scrub {
	s := &Scrub{
		blobs: blobs, meta: meta, registry: reg, now: o.Now, log: o.Log,
		limiter: rate.NewLimiter(rate.Inf, chunk), wake: make(chan struct{}, 1),
		doubts: make(chan digest.Digest, maxDoubts), doubted: map[digest.Digest]bool{},
		healer: o.Heal, hurt: make(chan struct{}, 1),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.lead, s.others = o.Lead, o.Lead != nil; s.lead == nil {
		s.lead = func(ctx context.Context, fn func(context.Context)) { fn(ctx) }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.Set(o.Interval, o.Rate)
	return s
}

// Set changes Options.Interval and Options.Rate.
func (s *Scrub) Set(interval time.Duration, bytesPerSecond int64) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	s.limiter.SetLimit(limit)
	s.mu.Lock()
	s.interval = interval
	s.mu.Unlock()
	s.notify()
}

func (s *Scrub) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look
	}
}

// Doubt has a blob checked soon that could not be served as it should be. It does not
// wait.
func (s *Scrub) Doubt(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doubted[d] {
		return
	}
	select {
	case s.doubts <- d:
		s.doubted[d] = true
	default: // whoever asks next may have more luck
	}
}

// Start begins a round now, or as soon as Run runs, within a minute if another process
// does the rounds. It says whether it did: not if a
// round goes on already. One that waits, after a failure or for Run, goes on then
// whatever it finds.
func (s *Scrub) Start(ctx context.Context) (started bool, err error) {
	s.mu.Lock()
	waits := !s.running
	s.mu.Unlock()
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		state, err := load(tx)
		started = err == nil && (state.Began.IsZero() || waits)
		if !started {
			return err
		}
		state.Wanted = s.now()
		return storage.Scrubs.Put(tx, storage.ScrubKey, state)
	})
	if started && err == nil {
		s.notify()
	}
	return started && err == nil, err
}

// Run checks until ctx ends.
func (s *Scrub) Run(ctx context.Context) {
	var besides sync.WaitGroup
	defer besides.Wait()
	besides.Go(func() { s.checkDoubts(ctx) })
	s.lead(ctx, s.rounds)
}

// rounds does rounds, and has healed what they find, until ctx ends.
func (s *Scrub) rounds(ctx context.Context) {
	var besides sync.WaitGroup
	defer besides.Wait()
	besides.Go(func() { s.heal(ctx) })
	for failures := 0; ctx.Err() == nil; {
		wait, err := s.next(ctx)
		if err == nil && wait == 0 {
			if err = s.round(ctx); ctx.Err() == nil {
				s.mu.Lock()
				s.problem = err
				s.mu.Unlock()
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			wait = min(firstRetry<<min(failures-1, 10), lastRetry)
			s.log.ErrorContext(ctx, "the scrub of what is stored has stopped; it will try again", "in", wait.String(), "error", err)
		case wait == 0:
			failures = 0
			continue
		}
		s.sleep(ctx, wait)
	}
}

// next finishes what a crash has left undone, and says how long it is until a round
// begins, or goes on; less than 0 for never.
func (s *Scrub) next(ctx context.Context) (wait time.Duration, err error) {
	if err := s.finishMoves(ctx); err != nil {
		return 0, err
	}
	state, err := s.load(ctx)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	interval := s.interval
	s.mu.Unlock()
	switch {
	case !state.Began.IsZero() || !state.Wanted.IsZero():
		return 0, nil
	case interval <= 0:
		return -1, nil
	case state.Last.Finished.IsZero():
		return 0, nil
	}
	// A clock that was ahead must not put it off for years.
	return min(max(state.Last.Began.Add(interval).Sub(s.now()), 0), interval), nil
}

// sleep waits, for ever if wait is less than 0, or until there is something new.
func (s *Scrub) sleep(ctx context.Context, wait time.Duration) {
	var passed <-chan time.Time
	if s.others && (wait < 0 || wait > lookEvery) {
		wait = lookEvery
	}
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-passed:
	}
}

// checkDoubts checks what others doubt, until ctx ends.
func (s *Scrub) checkDoubts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-s.doubts:
			blob, ok, err := s.registry.StoredBlob(ctx, d)
			if err == nil && ok && !blob.Damaged {
				_, err = s.examine(ctx, blob, false)
			}
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "cannot check bytes that could not be served", "digest", d, "error", err)
			}
			time.AfterFunc(doubtPause, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.doubted, d)
			})
		}
	}
}
