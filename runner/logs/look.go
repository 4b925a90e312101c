package logs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// look does what a log needs now. It says whether the log is being written to:
// then it should be looked at again in a while, otherwise inotify will tell.
func (k *Keeper) look(l *kept) (busy bool, err error) {
	l.disk.Lock()
	defer l.disk.Unlock()
	if k.isGone(l) {
		return false, nil
	}
	path := filepath.Join(l.dir, FileName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the directory's watch tells when it comes
	}
	if err != nil {
		return false, err
	}
	if info.Size() > 0 || l.seen != nil {
		if err := k.bound(l); err != nil {
			return false, err
		}
		if info, err = os.Stat(path); err != nil {
			return false, err
		}
	}
	if _, piece := l.options.limit(); info.Size() >= piece {
		k.ask(l, info)
	}
	still := l.seen != nil && sameState(l.seen, info)
	l.seen = info
	if k.inotify == nil {
		return false, nil
	}
	if !still && info.Size() > 0 {
		return true, nil
	}
	return k.arm(l, path, info)
}

func sameState(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.Size() == b.Size() }

func (k *Keeper) isGone(l *kept) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return l.gone
}

// bound gives lasting names to new files, and trims the log if there are any.
func (k *Keeper) bound(l *kept) error {
	changed, err := adopt(l.dir)
	if err != nil || !changed && l.seen != nil && !l.trim {
		return err
	}
	l.trim = false
	_, piece := l.options.limit()
	if err := trim(l.dir, l.options, piece); err != nil {
		return err
	}
	k.pack(l)
	return nil
}

// ask asks the monitor to begin a new file, unless it is about to. If it does not,
// because it is just ending for example, its own bound holds.
func (k *Keeper) ask(l *kept, info fs.FileInfo) {
	if l.asked != nil && os.SameFile(l.asked, info) && time.Since(l.askedAt) < patience {
		return
	}
	l.asked, l.askedAt = info, time.Now()
	ctx, cancel := context.WithTimeout(k.ctx, asking)
	defer cancel()
	if err := l.reopen(ctx); err != nil {
		k.log.DebugContext(ctx, "a monitor does not begin a new log", "container", l.id, "err", err)
	}
}

// arm has inotify tell of the next byte that is written to the file. If there was
// one before it could, the log is busy.
func (k *Keeper) arm(l *kept, path string, info fs.FileInfo) (busy bool, err error) {
	if err := k.watchFile(l, path); err != nil {
		return errors.Is(err, fs.ErrNotExist), err
	}
	now, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), err
	}
	return !sameState(info, now), nil
}

func (k *Keeper) watchFile(l *kept, path string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.gone {
		return nil
	}
	wd, err := k.inotify.add(path, unix.IN_MODIFY|unix.IN_ONESHOT)
	if err != nil {
		return err
	}
	if l.fileWD != 0 && l.fileWD != wd { // of a file before
		k.inotify.remove(l.fileWD)
		delete(k.watches, l.fileWD)
	}
	l.fileWD = wd
	k.watches[wd] = l
	return nil
}

// Settle trims a log to which no monitor writes any more, as it must be for a
// container that has ended while no Keeper was there.
func Settle(dir string, o Options) error {
	if o.MaxSize < 0 {
		return nil
	}
	s, err := scan(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	_, piece := o.limit()
	long := s.currentSize() > piece
	if len(s.numbered) == 0 && !s.nextUsed() && !long {
		return nil // short, and the only one
	}
	if _, err := adopt(dir); err != nil {
		return err
	}
	if !long {
		return trim(dir, o, s.currentSize())
	}
	if err := rotate(dir); err != nil {
		return err
	}
	if _, err := adopt(dir); err != nil {
		return err
	}
	return trim(dir, o, 0)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
