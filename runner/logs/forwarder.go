package logs

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner/logs/remote"
)

// Forwarder sends the logs of containers to log servers. A log to which nothing is
// written costs it a watch and no goroutine; one goroutine sends for all
// containers with the same server and the same options of it.
type Forwarder struct {
	log     *slog.Logger
	keeper  *Keeper
	left    string          // directory of what removed containers have left
	ctx     context.Context //nolint:containedctx // ends what Close ends
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	inotify *inotify // nil if the host has none left: logs are then looked at now and then
	watches map[int]*item
	items   map[string]*item   // by ID
	senders map[string]*sender // by the Key of their settings
}

// Log is a log that is sent.
type Log struct {
	ID, Dir string
	Options Options // of which Remote is not nil
	Source  remote.Source
}

// damping is how long events of logs are collected: a container that writes fast
// makes many.
const damping = 10 * time.Millisecond

// NewForwarder returns a Forwarder, which goes on with what containers left in a
// directory of its own that it makes. It must be closed.
func NewForwarder(log *slog.Logger, keeper *Keeper, left string) (*Forwarder, error) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Forwarder{
		log: log, keeper: keeper, left: left, ctx: ctx, cancel: cancel,
		watches: map[int]*item{}, items: map[string]*item{}, senders: map[string]*sender{},
	}
	n, err := newInotify()
	if err != nil {
		log.WarnContext(ctx, "no inotify for logs: they are looked at now and then", "err", err)
		f.working.Go(f.poll)
	} else {
		f.inotify = n
		f.working.Go(f.listen)
	}
	if err := f.takeOver(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close stops sending. The next Forwarder goes on where this one has come to.
func (f *Forwarder) Close() {
	f.cancel()
	f.mu.Lock()
	f.closed = true
	senders := f.senders
	f.senders = nil
	f.mu.Unlock()
	if f.inotify != nil {
		f.inotify.close()
	}
	f.working.Wait()
	for _, s := range senders {
		s.dest.Close()
	}
}

// Begin sends the log of a container that is about to start. It fails, with
// Docker's text, if the server does not answer, unless the options say that it
// need not. No monitor may write the log yet.
func (f *Forwarder) Begin(ctx context.Context, l Log) error {
	it, err := f.add(l, false)
	if err != nil {
		return runnerError(err)
	}
	if !l.Options.Remote.Async {
		if err := it.sender.dest.Open(ctx); err != nil {
			f.End(l.ID)
			return runnerError(err)
		}
	}
	// What an earlier run needed of the disk is being given back.
	it.settling.Lock()
	defer it.settling.Unlock()
	return nil
}

// Adopt sends the log of a container that a daemon before this one has started;
// ended says that it has ended since.
func (f *Forwarder) Adopt(l Log, ended bool) error {
	it, err := f.add(l, ended)
	if err == nil {
		f.activate(it)
	}
	return err
}

// End says that the monitor of a container writes no more. What is left is sent.
func (f *Forwarder) End(id string) {
	f.mu.Lock()
	it := f.items[id]
	if it != nil {
		it.ended = true
	}
	f.mu.Unlock()
	if it != nil {
		f.activate(it)
	}
}

// add registers a log.
func (f *Forwarder) add(l Log, ended bool) (*item, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, context.Canceled
	}
	if it := f.items[l.ID]; it != nil {
		it.ended = ended
		return it, nil
	}
	s, err := f.senderFor(*l.Options.Remote)
	if err != nil {
		return nil, err
	}
	it := &item{f: f, log: l, key: l.ID, dir: l.Dir, sender: s, ended: ended}
	it.queue = newQueue(l.Source.ID, l.Dir, l.Options.MaxUnsent, it.gap)
	s.users++
	f.items[l.ID] = it
	f.watch(it)
	return it, nil
}

// watch has changes of a log told. The mutex is held.
func (f *Forwarder) watch(it *item) {
	if f.inotify == nil {
		return
	}
	wd, err := f.inotify.add(it.dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR)
	if err != nil {
		if !it.ended {
			f.log.ErrorContext(f.ctx, "a log is not watched, and sent when it ends", "container", it.log.Source.ID, "err", err)
		}
		return
	}
	it.wd = wd
	f.watches[wd] = it
}

// forget ends sending a log. The mutex is held.
func (f *Forwarder) forget(it *item) {
	if f.items[it.key] == it {
		delete(f.items, it.key)
	}
	if it.gone {
		return
	}
	it.gone = true
	if it.wd != 0 && f.watches[it.wd] == it {
		f.inotify.remove(it.wd)
		delete(f.watches, it.wd)
	}
	it.sender.users--
	if it.sender.users == 0 && f.senders[it.sender.settings.Key] == it.sender {
		delete(f.senders, it.sender.settings.Key)
		it.sender.unused = true
		if !it.sender.running {
			go it.sender.dest.Close()
		}
	}
}

// listen has logs sent when something is written to them.
func (f *Forwarder) listen() {
	err := f.inotify.each(func(events []event) {
		f.noticed(events)
		select {
		case <-time.After(damping):
		case <-f.ctx.Done():
		}
	})
	if err != nil {
		f.log.ErrorContext(f.ctx, "logs are not watched any more", "err", err)
	}
}

func (f *Forwarder) noticed(events []event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		if e.mask&unix.IN_Q_OVERFLOW != 0 {
			f.activateAll()
		} else if it := f.watches[e.wd]; it != nil && e.name == FileName {
			f.enqueue(it)
		}
	}
}

// poll has all logs looked at from time to time.
func (f *Forwarder) poll() {
	ticks := time.NewTicker(poll)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			f.mu.Lock()
			f.activateAll()
			f.mu.Unlock()
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *Forwarder) activateAll() {
	for _, it := range f.items {
		f.enqueue(it)
	}
}

// activate has a log looked at.
func (f *Forwarder) activate(it *item) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enqueue(it)
}
