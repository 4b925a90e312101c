package logs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Keeper bounds the logs of containers while the daemon runs. A log that nothing
// is written to costs it no work, and no memory but a watch.
type Keeper struct {
	log     *slog.Logger
	ctx     context.Context //nolint:containedctx // ends what Close ends
	cancel  context.CancelFunc
	working sync.WaitGroup
	packer  sync.Mutex // held while a log is compressed

	mu      sync.Mutex
	inotify *inotify // nil if the host has none left: logs are then looked at now and then
	logs    map[string]*kept
	watches map[int]*kept
}

// kept is a log that is kept.
type kept struct {
	id, dir string
	options Options
	reopen  func(ctx context.Context) error
	dirWD   int // 0 without inotify

	// Guarded by the Keeper's mutex.
	fileWD int
	active bool // a worker looks after it
	again  bool // and is to look once more
	gone   bool // is not kept any more

	packing bool // waits to be compressed

	disk sync.Mutex // held while files change; guards what follows
	// seen is the current file when it was looked at last.
	seen fs.FileInfo
	trim bool // it may be too long though no file is new
	// asked is the file that the monitor was asked to end.
	asked   fs.FileInfo
	askedAt time.Time
}

const (
	// pause is how long a log that is written to is left alone.
	pause = 100 * time.Millisecond
	// patience is when a monitor that has not begun a new file is asked again.
	patience = 2 * time.Second
	// asking bounds how long it may take to ask it.
	asking = time.Second
	// poll is how often logs are looked at where there is no inotify.
	poll = 500 * time.Millisecond
)

// NewKeeper returns a Keeper of no logs. It must be closed.
func NewKeeper(log *slog.Logger) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{log: log, ctx: ctx, cancel: cancel, logs: make(map[string]*kept), watches: make(map[int]*kept)}
	n, err := newInotify()
	if err != nil {
		log.WarnContext(ctx, "no inotify for logs: they are looked at now and then", "err", err)
		k.working.Go(k.poll)
		return k
	}
	k.inotify = n
	k.working.Go(k.listen)
	return k
}

// Close stops keeping logs. Their monitors go on, within MonitorLimit.
func (k *Keeper) Close() {
	k.cancel()
	if k.inotify != nil {
		k.inotify.close()
	}
	k.working.Wait()
}

// Watch keeps the log in dir, which must exist, within the bounds that o sets.
// The monitor writes it or is about to. reopen asks the monitor to begin a new
// file (the control message "2 0 0" of conmon); it need not wait until it has.
// A log that is watched already gets the new options.
func (k *Keeper) Watch(id, dir string, o Options, reopen func(ctx context.Context) error) {
	if old := k.forget(id); old != nil {
		old.disk.Lock() // until its files do not change any more
		defer old.disk.Unlock()
	}
	if o.MaxSize < 0 {
		return
	}
	l := &kept{id: id, dir: dir, options: o, reopen: reopen}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inotify != nil {
		wd, err := k.inotify.add(dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR)
		if err != nil {
			k.log.ErrorContext(k.ctx, "a log is not kept within bounds", "container", id, "err", err)
			return
		}
		l.dirWD = wd
		k.watches[wd] = l
	}
	k.logs[id] = l
	k.kick(l)
}

// Unwatch ends keeping a log whose monitor has ended, and trims it for the last
// time: when it returns, the log is as short as it should be.
func (k *Keeper) Unwatch(id string) {
	l := k.forget(id)
	if l == nil {
		return
	}
	l.disk.Lock()
	defer l.disk.Unlock()
	if err := Settle(l.dir, l.options); err != nil {
		k.log.ErrorContext(k.ctx, "trim the log of a container", "container", id, "err", err)
	}
	k.pack(l)
}

// pack compresses what is to be compressed of a log, one log at a time: it takes
// a core.
func (k *Keeper) pack(l *kept) {
	if !l.options.Compress {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() != nil || l.packing {
		return
	}
	l.packing = true
	k.working.Go(func() {
		k.packer.Lock()
		defer k.packer.Unlock()
		k.mu.Lock()
		l.packing = false // what is new from here on needs another turn
		k.mu.Unlock()
		if err := pack(k.ctx, l.dir, l.options); err != nil && k.ctx.Err() == nil {
			k.log.ErrorContext(k.ctx, "compress the log of a container", "container", l.id, "err", err)
		}
	})
}

// Trim has a log trimmed that was kept beyond its bound until it was sent.
func (k *Keeper) Trim(id string) {
	k.mu.Lock()
	l := k.logs[id]
	k.mu.Unlock()
	if l == nil {
		return
	}
	l.disk.Lock()
	l.trim = true
	l.disk.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !l.gone {
		k.kick(l)
	}
}

// forget ends keeping a log as it is.
func (k *Keeper) forget(id string) *kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.logs[id]
	if l == nil {
		return nil
	}
	l.gone = true
	delete(k.logs, id)
	for _, wd := range []int{l.dirWD, l.fileWD} {
		if wd != 0 && k.watches[wd] == l {
			k.inotify.remove(wd)
			delete(k.watches, wd)
		}
	}
	return l
}

// listen has logs looked after when something happens to them.
func (k *Keeper) listen() {
	err := k.inotify.each(func(events []event) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, e := range events {
			k.notice(e)
		}
	})
	if err != nil {
		k.log.ErrorContext(k.ctx, "logs are not kept within bounds any more", "err", err)
	}
}

func (k *Keeper) notice(e event) {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		for _, l := range k.logs {
			k.kick(l)
		}
		return
	}
	l := k.watches[e.wd]
	switch {
	case l == nil:
	case e.wd == l.dirWD:
		if e.name == FileName {
			k.kick(l)
		}
	case e.mask&unix.IN_IGNORED != 0: // the file's watch has served
		delete(k.watches, e.wd)
		if l.fileWD == e.wd {
			l.fileWD = 0
		}
	default:
		k.kick(l)
	}
}

// poll has all logs looked after from time to time.
func (k *Keeper) poll() {
	ticks := time.NewTicker(poll)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-k.ctx.Done():
			return
		}
		k.mu.Lock()
		for _, l := range k.logs {
			k.kick(l)
		}
		k.mu.Unlock()
	}
}

// kick has a log looked after. The mutex is held.
func (k *Keeper) kick(l *kept) {
	l.again = true
	if l.active || k.ctx.Err() != nil {
		return
	}
	l.active = true
	k.working.Go(func() { k.work(l) })
}

// work looks after a log until nothing happens to it.
func (k *Keeper) work(l *kept) {
	for k.proceed(l) {
		busy, err := k.look(l)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && k.ctx.Err() == nil {
			k.log.ErrorContext(k.ctx, "keep the log of a container within bounds", "container", l.id, "err", err)
		}
		if !busy {
			continue
		}
		select {
		case <-time.After(pause):
		case <-k.ctx.Done():
		}
		k.mu.Lock()
		l.again = true
		k.mu.Unlock()
	}
}

// proceed says whether there is something to do; if not, the next event begins
// anew.
func (k *Keeper) proceed(l *kept) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.again && !l.gone && k.ctx.Err() == nil {
		l.again = false
		return true
	}
	l.active = false
	return false
}
