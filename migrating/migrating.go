// Package migrating moves a registry from one pair of stores to another, from a
// directory to S3 and PostgreSQL for example, while it runs.
//
// It promises that nothing is lost at the source, whatever ends it and when; that it
// goes on where it ended when it is done again; that a target which has not got all is
// refused by Check; and that what is at the target in the end is what the source had:
// every row is compared, and every blob was hashed on its way and has its size. The
// source is told that it has moved before the target can be used, so at no time can both
// be written to.
//
// Blobs are copied while the source is written to, again until little is left. Then
// writes are held (Gate), and the rest, the rows and the bytes of upload sessions
// follow. Counters keep their values, so numbers go on above them. What
// processes say of themselves (leases, holds) stays behind.
//
// It does not change what is stored, decide where stores are, or remove anything at the
// source.
package migrating

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/storage"
)

// Store is where a registry keeps its data.
type Store struct {
	Blobs storage.Blobs
	Notes storage.Notes
	Meta  storage.Meta
}

// Options say how a registry is moved.
type Options struct {
	// From and To are what source and target are called where one tells of the other.
	From, To string
	// Jobs is how many blobs are copied at a time; 4 if it is 0.
	Jobs int
	// Rate is how many bytes of blobs are copied a second at most; 0 for no limit.
	Rate int64
	// Verify has what is at the target already read again, and takes over blobs there
	// that no migration has copied.
	Verify bool
	// Damaged has the registry moved even if some blobs cannot be read at the source.
	// The target takes them for damaged, and mends them when they are pushed again.
	Damaged bool
	// Keep leaves the source as it is, to be served on.
	Keep bool
	// Hold keeps everybody from writing to the source until release is called. nil if
	// nobody does.
	Hold func(ctx context.Context) (release func(), err error)
	// Moved makes it durable that the source is served no more. It is called once all is
	// at the target, unless Keep is set, and may have been called before.
	Moved func(ctx context.Context, m Moved) error
	// Left says whether that is so. nil if it never is.
	Left func(ctx context.Context) (bool, error)
	// Progress is told how far it is, by one caller at a time; it may be nil.
	Progress func(Progress)
}

// Moved says where a registry has gone.
type Moved struct {
	ID string    `json:"id"` // of the migration
	To string    `json:"to"`
	At time.Time `json:"at"`
}

// Progress is how far a migration is.
type Progress struct {
	Phase      Phase
	Blobs      int64 // looked at in this pass
	TotalBlobs int64 // about
	Bytes      int64 // in them
	TotalBytes int64 // about
	Problem    *Problem
}

// Phase is what a migration does.
type Phase string

// The phases, in their order.
const (
	PhaseCopy   Phase = "copy"   // blobs, while the source is written to
	PhaseSwitch Phase = "switch" // the rest, while it is not
	PhaseVerify Phase = "verify" // all is compared
	PhaseDone   Phase = "done"
)

// Problem is something that could not be moved.
type Problem struct {
	Digest  digest.Digest // of a blob; empty for an upload session
	Session string        // id of the session
	Reason  string
	known   bool // to the source, which takes the blob for damaged
	kind    storage.DamageKind
	size    int64
}

// Table is what a table has.
type Table struct {
	Name string
	Rows int64
	Sum  string // SHA-256 over the rows in their order, in hexadecimal
}

// Result is what a migration has done, or would do.
type Result struct {
	Blobs, Bytes             int64 // that the registry has
	CopiedBlobs, CopiedBytes int64 // or that would be
	PresentBlobs             int64 // at the target already
	Tables                   []Table
	Sessions                 int64 // upload sessions that were moved with their bytes
	DroppedSessions          int64 // that had lost their bytes; their clients start again
	Notes                    int64
	Problems                 []Problem
	ReadOnly                 time.Duration // for which nobody could write
	Already                  bool          // it had been moved before, and nothing was done
}

// ErrDamaged says that blobs of the source cannot be read, so that nothing was switched.
var ErrDamaged = errors.New("blobs of the source are damaged")

const (
	defaultJobs = 4
	// maxPasses is how often blobs are copied before writes are held: a source that is
	// written to faster than this copies would have no end.
	maxPasses = 8
	// littleBytes and littleBlobs are what is copied while writes are held.
	littleBytes = 64 << 20
	littleBlobs = 256
)

// mover moves a registry.
type mover struct {
	Options
	from, to  Store
	id        string
	sameBlobs bool // both have their blobs in one place
	limit     *rate.Limiter
	said      reporter

	mu      sync.Mutex
	res     Result
	bad     map[digest.Digest]Problem
	dropped map[string]bool // keys of sessions
}

func newMover(from, to Store, o Options) *mover {
	if o.Jobs <= 0 {
		o.Jobs = defaultJobs
	}
	m := &mover{Options: o, from: from, to: to, bad: map[digest.Digest]Problem{}, dropped: map[string]bool{}}
	m.said.tell = o.Progress
	if o.Rate > 0 {
		m.limit = rate.NewLimiter(rate.Limit(o.Rate), chunk)
	}
	return m
}

// Run moves a registry. What it returns with an error is what was done until then.
func Run(ctx context.Context, from, to Store, o Options) (Result, error) {
	m := newMover(from, to, o)
	err := m.run(ctx)
	m.finishResult()
	return m.res, err
}

func (m *mover) run(ctx context.Context) error {
	done, err := m.begin(ctx)
	if err != nil || done {
		return err
	}
	if m.sameBlobs, err = m.shareBlobs(ctx); err != nil {
		return err
	}
	if err := m.copyAhead(ctx); err != nil {
		return err
	}
	release, began := func() {}, time.Now()
	if m.Hold != nil {
		if release, err = m.Hold(ctx); err != nil {
			return fmt.Errorf("hold writes to the source: %w", err)
		}
	}
	defer func() { m.res.ReadOnly = time.Since(began) }()
	defer release()
	return m.change(ctx)
}

// copyAhead copies what can be copied while the source is written to.
func (m *mover) copyAhead(ctx context.Context) error {
	for pass := range maxPasses {
		copied, size, err := m.copyBlobs(ctx, PhaseCopy)
		if err != nil {
			return err
		}
		if pass == 0 {
			if err := errors.Join(m.copyTables(ctx), m.copyNotes(ctx)); err != nil {
				return err
			}
			m.Verify = false // it has been read again
		}
		if copied <= littleBlobs && size <= littleBytes {
			break
		}
	}
	return m.damage()
}

// change does what is done while nobody writes to the source.
func (m *mover) change(ctx context.Context) error {
	if _, _, err := m.copyBlobs(ctx, PhaseSwitch); err != nil {
		return err
	}
	if err := m.damage(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		m.moveSessions, m.copyTables, m.finishNotes, m.verify,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	// From here on it is brought to its end: between the two nobody is served.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := m.leave(ctx); err != nil {
		return err
	}
	if err := m.arrive(ctx); err != nil {
		return fmt.Errorf("all is at the target, but it cannot be told: do it again: %w", err)
	}
	m.said.say(Progress{Phase: PhaseDone}, true)
	return nil
}

// endTime is how long the last step may take, whoever has gone.
const endTime = time.Minute

// leave has the source served no more.
func (m *mover) leave(ctx context.Context) error {
	if m.Keep || m.Moved == nil {
		return nil
	}
	if err := m.Moved(ctx, Moved{ID: m.id, To: m.To, At: time.Now().UTC()}); err != nil {
		return fmt.Errorf("mark the source as moved: %w", err)
	}
	return nil
}

// damage fails if there are blobs that cannot be moved, unless that is allowed.
func (m *mover) damage() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, p := range m.bad {
		if !p.known {
			n++
		}
	}
	if n == 0 || m.Damaged {
		return nil
	}
	return fmt.Errorf("%w: %d of them; push them again, or move without them", ErrDamaged, n)
}

func (m *mover) finishResult() {
	for _, p := range m.bad {
		m.res.Problems = append(m.res.Problems, p)
	}
	sortProblems(m.res.Problems)
}
