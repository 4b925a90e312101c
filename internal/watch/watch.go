// Package watch tells when files change.
//
// It looks at them every now and then, which works on every file system, through
// symbolic links and when a directory is swapped as Kubernetes does. A change that
// leaves size, time and inode as they were is not seen.
package watch

import (
	"context"
	"os"
	"slices"
	"syscall"
	"time"
)

// Interval is how often files are looked at.
const Interval = time.Second

// stamp is what a file looks like from outside; zero if there is none.
type stamp struct {
	size, mtime int64
	inode       uint64
}

func look(path string) (s stamp) {
	info, err := os.Stat(path)
	if err != nil {
		return s
	}
	s.size, s.mtime = info.Size(), info.ModTime().UnixNano()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// Files calls changed, on a goroutine of its own, each time one of the files has
// changed since Files was called, until ctx ends. The function returned waits for
// the last call to be over.
func Files(ctx context.Context, interval time.Duration, changed func(), paths ...string) (wait func()) {
	all := func() []stamp {
		stamps := make([]stamp, len(paths))
		for i, p := range paths {
			stamps[i] = look(p)
		}
		return stamps
	}
	last, done := all(), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := all(); !slices.Equal(now, last) {
				last = now
				changed()
			}
		}
	}()
	return func() { <-done }
}
