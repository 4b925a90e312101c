package registry

import (
	"context"
	"time"
)

// A collection has time, and pushes have not. So it does little at once, and rests
// in between, while others write; while nobody does, it does much, so that the disk
// is not waited for again and again.
const (
	// collectFew and collectMany are how many reviews are done in one transaction.
	collectFew  = 128
	collectMany = 1024
	// collectRest is how many times longer than it has worked a collection rests
	// while others write.
	collectRest = 9
	// collectSlow is how long a step may take, so that who comes meanwhile does not
	// wait for long.
	collectSlow = time.Second
)

// pace says how much a collection does at once.
type pace struct {
	local   *Local
	limit   int // reviews in a step
	changes uint64
	begin   time.Time
}

func (l *Local) newPace() *pace { return &pace{local: l, limit: collectFew} }

// step begins a step, and returns how many reviews it may do.
func (p *pace) step() int {
	p.changes, p.begin = p.local.changes.Load(), time.Now()
	return p.limit
}

// rest ends a step, and returns when it is time for the next.
func (p *pace) rest(ctx context.Context) error {
	took := time.Since(p.begin)
	quiet := p.local.changes.Load() == p.changes
	if quiet && took < collectSlow {
		p.limit = min(2*p.limit, collectMany)
	} else {
		p.limit = collectFew
	}
	if quiet {
		return ctx.Err()
	}
	timer := time.NewTimer(collectRest * min(took, collectSlow))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
