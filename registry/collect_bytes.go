package registry

import (
	"context"
	"sync"
	"time"
)

// deleters is how many deletions run at once: a file system has most of them wait for
// what others have it write, and a store behind a network has all of them wait.
const deleters = 16

// deleteEach deletes the bytes of tombstones, and says which of them are gone. It
// leaves those that it has not come to when half of the claim on them is over, which
// began at begin, and gives up what lasts for much longer.
func (l *Local) deleteEach(ctx context.Context, bytes []tombstone, begin time.Time) (gone []bool) {
	gone = make([]bool, len(bytes))
	ctx, cancel := context.WithDeadline(ctx, begin.Add(claimTime*3/4))
	defer cancel()
	var done sync.WaitGroup
	for first := range min(deleters, len(bytes)) {
		done.Go(func() {
			for i := first; i < len(bytes) && time.Since(begin) <= claimTime/2; i += deleters {
				d := bytes[i].Digest
				err := l.blobs.Delete(ctx, d)
				if gone[i] = err == nil || isNotFound(err); !gone[i] {
					l.log.WarnContext(ctx, "cannot delete garbage; will try again", "digest", d, "error", err)
				}
			}
		})
	}
	done.Wait()
	return gone
}
