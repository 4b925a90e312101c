package logs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// follow copies what is written from now on.
func (r *reader) follow(ctx context.Context, until time.Time, ended <-chan struct{}) error {
	w := newWatcher(r.dir)
	defer w.close()
	timer := untilTimer(until)
	defer timer.Stop()
	for {
		final := false
		select {
		case <-ended:
			final = true // nothing is written any more
		default:
		}
		w.watch(r.f)
		more, err := r.catchUp(ctx)
		if err != nil || final || !more {
			return err
		}
		if err := r.out.flush(); err != nil {
			return err
		}
		select {
		case <-w.changed:
		case <-ended:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// catchUp copies all that is there. It says whether there may be more.
func (r *reader) catchUp(ctx context.Context) (more bool, err error) {
	for {
		// A file is at its end only if it was read to its end after the monitor
		// had gone on to another one.
		next, err := r.successor()
		more = err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if r.f != nil {
			r.end = maxOffset
			if err := r.copyFile(ctx); err != nil {
				return false, err
			}
		}
		if next == nil {
			return more, nil
		}
		f, err := os.Open(next.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has been renamed, or shortened
		}
		if err != nil {
			return false, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return false, err
		}
		if !os.SameFile(info, next.info) {
			f.Close()
			continue
		}
		o := opened{next.file, f}
		if err := o.use(); err != nil {
			o.f.Close()
			return false, err
		}
		r.enter(o.f, next.number)
	}
}

// location is a file that comes next.
type location struct {
	file
	path string
}

// successor finds the file after the one that is read; nil if there is none yet.
// It returns fs.ErrNotExist if the log was removed: a monitor never leaves a
// moment without a current file.
func (r *reader) successor() (*location, error) {
	s, err := scan(r.dir)
	if err != nil {
		return nil, err
	}
	if r.f != nil {
		info, err := r.f.Stat()
		if err != nil {
			return nil, err
		}
		if number, ok := s.has(info); ok {
			r.number = number
		}
		if s.isCurrent(info) {
			return nil, nil
		}
	}
	for _, f := range s.all() {
		if f.number > r.number {
			return &location{f, s.path(f.name)}, nil
		}
	}
	if r.f != nil && s.current == nil {
		return nil, fs.ErrNotExist
	}
	return nil, nil
}

// watcher tells that a log may have changed: by inotify, or, where the host has
// none left, from time to time.
type watcher struct {
	changed chan struct{}
	inotify *inotify
	dir     string
	dirWD   int
	fileWD  int
	file    *os.File
	stop    chan struct{}
}

// tick is how often a follower looks without inotify.
const tick = 200 * time.Millisecond

func newWatcher(dir string) *watcher {
	w := &watcher{changed: make(chan struct{}, 1), dir: dir, stop: make(chan struct{})}
	n, err := newInotify()
	if err != nil {
		go w.tick()
		return w
	}
	w.inotify = n
	go w.listen(n)
	return w
}

func (w *watcher) close() {
	close(w.stop)
	if w.inotify != nil {
		w.inotify.close()
	}
}

// watch has changes of the directory and of a file in it told from now on.
func (w *watcher) watch(f *os.File) {
	if w.inotify == nil {
		return
	}
	if w.dirWD == 0 {
		wd, err := w.inotify.add(w.dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_DELETE|unix.IN_DELETE_SELF|unix.IN_ONLYDIR)
		if err != nil {
			w.fallBack()
			return
		}
		w.dirWD = wd
	}
	if f == nil || f == w.file {
		return
	}
	wd, err := w.inotify.add(descriptor(f), unix.IN_MODIFY)
	if err != nil {
		w.fallBack()
		return
	}
	if w.fileWD != 0 && w.fileWD != wd {
		w.inotify.remove(w.fileWD)
	}
	w.fileWD, w.file = wd, f
}

// fallBack goes on without inotify.
func (w *watcher) fallBack() {
	w.inotify.close()
	w.inotify = nil
	go w.tick()
}

func (w *watcher) listen(n *inotify) {
	buf := make([]byte, 4096)
	for {
		if _, err := n.read(buf); err != nil {
			return
		}
		w.tell()
	}
}

func (w *watcher) tick() {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			w.tell()
		case <-w.stop:
			return
		}
	}
}

func (w *watcher) tell() {
	select {
	case w.changed <- struct{}{}:
	default: // is told already
	}
}
