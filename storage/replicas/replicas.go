// Package replicas has each of several servers that share a store know how many of them
// live.
//
// A server that begins is counted by the others a few seconds later, one that ends at
// once, and one that dies after Patience. What a server knows is by its own clock: the
// clocks of servers may differ by any amount. One that cannot reach the store goes on
// with the number that it knew; so the numbers of servers may differ for a while, and
// are nothing to base correctness on.
//
// Where nobody else writes to the store (storage.Versioner) nothing is written, and
// there is always one.
package replicas

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// every is how often a server says that it lives, and looks who else does.
	every = 2 * time.Second
	// Patience is how long one that says nothing is counted still.
	Patience = 5 * every
	// keep is how long its row stays after that.
	keep = time.Minute
	// patience is how long the store may take.
	patience = 5 * time.Second
)

// Options are what New can be told.
type Options struct {
	// Now is the clock that time is measured by; nil for time.Now.
	Now func() time.Time
	// Log is told of failures; nil is nobody.
	Log *slog.Logger
}

// Set is the servers that share a store, as one of them sees them. Its methods may be
// called concurrently.
type Set struct {
	meta   storage.Meta
	alone  bool
	now    func() time.Time
	log    *slog.Logger
	id     string
	since  time.Time
	beat   int64
	others map[string]*other // by id
	live   atomic.Int64
}

// other is another server.
type other struct {
	beat int64
	at   time.Time // when the beat was first seen
}

// New makes a set of which this process is a member once Run runs. Its id is the name
// of the host, if that is known, with what tells it from others there, and from those
// before it.
func New(meta storage.Meta, o Options) *Set {
	s := &Set{meta: meta, now: o.Now, log: o.Log, id: newID(), others: map[string]*other{}}
	_, s.alone = meta.(storage.Versioner)
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.since = s.now()
	s.live.Store(1)
	return s
}

func newID() string {
	const longest = 64       // bytes
	host, _ := os.Hostname() // it is for people who look
	if len(host) > longest {
		host = host[:longest]
	}
	return strings.TrimPrefix(strings.ToValidUTF8(host, "")+"-", "-") + strings.ToLower(rand.Text()[:6])
}

// ID is what this process is called, for people who look.
func (s *Set) ID() string { return s.id }

// Live returns how many servers live, this one included. It waits for nothing.
func (s *Set) Live() int { return int(s.live.Load()) }

// Run has this process be counted until ctx ends, and counts the others.
func (s *Set) Run(ctx context.Context) {
	if s.alone {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		err := s.turn(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot find out how many servers there are; will try again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			s.leave(ctx)
			return
		case <-tick.C:
		}
	}
}

func (s *Set) key() []byte { return storage.Key(s.id) }

// turn says that this process lives, and looks who else does.
func (s *Set) turn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.beat++
	// Nothing is read here, so that no two servers are in each other's way.
	err := s.meta.Update(ctx, func(tx storage.Tx) error {
		return storage.Replicas.Put(tx, s.key(), storage.Replica{Beat: s.beat, Since: s.since})
	})
	if err != nil {
		return err
	}
	var rows map[string]int64
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		rows = map[string]int64{}
		for e, err := range storage.Replicas.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			rows[string(e.Key)] = e.Value.Beat
		}
		return nil
	})
	if err != nil {
		return err
	}
	delete(rows, s.id)
	return s.bury(ctx, s.count(rows))
}

// count counts who lives, and returns the rows of those who have died long ago. One that
// is seen for the first time is taken to live.
func (s *Set) count(rows map[string]int64) (dead map[string]int64) {
	now := s.now()
	for id := range s.others {
		if _, there := rows[id]; !there {
			delete(s.others, id)
		}
	}
	live := int64(1)
	for id, beat := range rows {
		o := s.others[id]
		if o == nil || o.beat != beat {
			o = &other{beat, now}
			s.others[id] = o
		}
		switch quiet := now.Sub(o.at); {
		case quiet < Patience:
			live++
		case quiet >= Patience+keep:
			if dead == nil {
				dead = map[string]int64{}
			}
			dead[id] = beat
		}
	}
	s.live.Store(live)
	return dead
}

// bury removes the rows of servers that have died, unless they say now that they have
// not.
func (s *Set) bury(ctx context.Context, dead map[string]int64) error {
	if len(dead) == 0 {
		return nil
	}
	return s.meta.Update(ctx, func(tx storage.Tx) error {
		for id, beat := range dead {
			row, err := storage.Replicas.Get(tx, storage.Key(id))
			if errors.Is(err, storage.ErrNotFound) || err == nil && row.Beat != beat {
				continue
			}
			if err != nil {
				return err
			}
			if err := storage.Replicas.Delete(tx, storage.Key(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// leave has the others count this process no longer.
func (s *Set) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := s.meta.Update(ctx, func(tx storage.Tx) error { return storage.Replicas.Delete(tx, s.key()) }); err != nil {
		s.log.WarnContext(ctx, "this server is counted for a few seconds more than it runs", "error", err)
	}
}
