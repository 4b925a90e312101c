package postgres

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// tries are what has been tried, and for how long it goes on.
type tries struct {
	n     int
	until time.Time
}

func (m *Meta) newTries() *tries { return &tries{until: time.Now().Add(m.patience)} }

const (
	firstPause = time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// left is for how long it goes on, and not nothing.
func (t *tries) left() time.Duration { return max(time.Until(t.until), time.Millisecond) }

// again waits a while, longer each time and at random, counts one more, and says
// whether to try again.
func (t *tries) again(ctx context.Context, count *atomic.Int64) bool {
	limit := min(lastPause, firstPause<<min(t.n, 20))
	pause := time.NewTimer(limit/2 + rand.N(limit)) //nolint:gosec // it only spreads those who wait
	defer pause.Stop()
	t.n++
	if time.Now().After(t.until) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-pause.C:
		count.Add(1)
		return true
	}
}
