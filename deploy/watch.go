package deploy

import (
	"iter"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

const (
	repairSettles = 50 * time.Millisecond // what happens together is looked at once
	repairAgain   = time.Second           // for replicas that are not ready yet
	repairEvery   = time.Minute
)

// listen begins to listen to what happens to containers.
func (m *Manager) listen() iter.Seq[events.Message] {
	return m.engine.Events(m.lifetime(), time.Time{}, time.Time{}, runner.Filters{"type": {string(events.ContainerEventType)}})
}

// watch repairs stacks when something happens to their containers, and every minute.
func (m *Manager) watch(seq iter.Seq[events.Message]) {
	m.work.Go(func() {
		for pause(m.lifetime(), repairEvery) == nil {
			m.pokeAll()
		}
	})
	for {
		for e := range seq {
			if stack := e.Actor.Attributes[labelStack]; stack != "" && matters(e.Action) {
				if u, err := m.unit(stack); err == nil && u.sound() {
					if e.Action == events.ActionDie {
						u.falls(e.Actor.ID)
					}
					m.poke(u)
				}
			}
		}
		if pause(m.lifetime(), repairAgain) != nil {
			return
		}
		seq = m.listen() // it was too slow for the one before
		m.pokeAll()
	}
}

func matters(a events.Action) bool {
	switch a {
	case events.ActionDie, events.ActionStart, events.ActionDestroy, events.ActionUnPause:
		return true
	default:
		return strings.HasPrefix(string(a), string(events.ActionHealthStatus))
	}
}

func (m *Manager) pokeAll() {
	for _, u := range m.all() {
		if u.mend(m.lifetime()) == nil {
			m.poke(u)
		}
	}
}

// poke has a stack repaired soon, in its turn.
func (m *Manager) poke(u *unit) { m.pokeIn(u, repairSettles) }

func (m *Manager) pokeIn(u *unit, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.poked || m.lifetime().Err() != nil {
		return
	}
	u.poked = true
	m.work.Go(func() {
		ctx := m.lifetime()
		if pause(ctx, wait) != nil {
			return
		}
		select {
		case u.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		u.mu.Lock()
		u.poked = false
		pending := u.rec.pending()
		busy := u.op != nil || u.gone || u.unread != nil && !pending
		u.mu.Unlock()
		if busy { // what goes on pokes when it is over
			<-u.turn
			return
		}
		if pending {
			<-u.turn
			u.resume()
			return
		}
		later, err := u.repair(ctx)
		<-u.turn
		switch wait, news := u.fails(err); {
		case ctx.Err() != nil:
		case err != nil:
			if news {
				m.log.WarnContext(ctx, "repair a stack", "stack", u.name, "error", err)
			}
			m.pokeIn(u, wait)
		case later:
			m.pokeIn(u, repairAgain)
		}
	})
}

// fails notes how a repair went, and returns when to try again and whether it is
// something else than before.
func (u *unit) fails(err error) (wait time.Duration, news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		u.ails, u.failures = "", 0
		return 0, false
	}
	news = u.ails != err.Error()
	u.ails = err.Error()
	u.failures++
	return min(repairAgain<<min(u.failures-1, 10), repairEvery), news
}
