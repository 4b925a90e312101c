package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/replicas"
)

// readiness says whether the stores of a server can be reached. Those that are elsewhere
// are tried all the time, and not by whoever asks: an answer comes at once, and a store
// that was away for a moment is no reason to send clients to another server.
type readiness struct {
	meta   storage.Meta
	remote []*reached
}

const (
	// readyEvery is how often a store is tried.
	readyEvery = 2 * time.Second
	// answerTime is how long it may take to answer.
	answerTime = 3 * time.Second
	// readyPatience is how long it may not answer.
	readyPatience = 6 * time.Second
)

// reached is a store that is elsewhere.
type reached struct {
	what string
	try  func(context.Context) error
	last atomic.Pointer[time.Time] // when it was tried that it has answered
}

// newReadiness is of stores that were opened just now.
func newReadiness(c config.Storage, meta storage.Meta, blobs storage.Blobs) *readiness {
	r := &readiness{meta: meta}
	if c.Postgres.On() {
		r.add("the metadata", func(ctx context.Context) error {
			return meta.View(ctx, func(tx storage.Tx) error {
				_, err := storage.Settings.Has(tx, storage.Key("ready"))
				return err
			})
		})
	}
	if c.S3.On() {
		r.add("the store of blobs", func(ctx context.Context) error {
			_, err := blobs.Size(ctx, digest.FromString("")) // that it is not there is an answer
			if errors.Is(err, storage.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	return r
}

func (r *readiness) add(what string, try func(context.Context) error) {
	one := &reached{what: what, try: try}
	one.last.Store(new(time.Now()))
	r.remote = append(r.remote, one)
}

// run tries the stores until ctx ends.
func (r *readiness) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, one := range r.remote {
		running.Go(func() { one.run(ctx) })
	}
}

func (s *reached) run(ctx context.Context) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		begin := time.Now()
		trying, cancel := context.WithTimeout(ctx, answerTime)
		if s.try(trying) == nil {
			s.last.Store(&begin)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// check says which store cannot be reached.
func (r *readiness) check(ctx context.Context) error {
	for _, one := range r.remote {
		if time.Since(*one.last.Load()) > readyPatience {
			return fmt.Errorf("%s cannot be reached", one.what)
		}
	}
	if _, alone := r.meta.(storage.Versioner); !alone {
		return nil
	}
	return r.meta.View(ctx, func(storage.Tx) error { return nil })
}

// instance is what a server calls itself, if it is not the only one.
func instance(meta storage.Meta, members *replicas.Set) string {
	if _, alone := meta.(storage.Versioner); alone {
		return ""
	}
	return members.ID()
}
