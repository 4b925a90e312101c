package audit

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

const (
	// maxPulls is how many pulls wait in memory at most; more are lost.
	maxPulls = 10_000
	// pullsEvery is how often they are written to the outbox at most.
	pullsEvery = time.Second
	// pullsAtOnce is how many one transaction writes, which pushes wait for.
	pullsAtOnce = 500
)

// Pulls wraps a registry so that webhooks are told of the manifests that are
// read. A client that resolves a tag first and reads the manifest by its digest
// then, as containerd does, has pulled the digest. Layers are not told of, nor
// questions whether a manifest is there.
//
// It keeps nobody waiting: pulls are kept in memory and written to the outbox once
// a second. In a crash those of the last second are lost, and so are those that
// the store fails to take and those above 10,000 in a second.
func Pulls(r registry.Registry, out *Outbox) registry.Registry {
	if out == nil {
		return r
	}
	return &pulls{r, out}
}

type pulls struct {
	registry.Registry
	out *Outbox
}

func (p *pulls) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	data, desc, err := p.Registry.Manifest(ctx, repo, ref)
	if err == nil {
		p.out.notePull(ctx, repo, ref, desc)
	}
	return data, desc, err
}

// pullBuffer holds pulls on their way to the outbox.
type pullBuffer struct {
	some chan struct{} // there are some

	mu     sync.Mutex
	events []Event
	lost   int64 // ever
	told   int64 // of those lost, how many the log knows of
}

func (o *Outbox) notePull(ctx context.Context, repo string, ref registry.Reference, desc registry.Descriptor) {
	e := Event{Kind: Pull, Repo: repo, Tag: ref.Tag, Digest: string(desc.Digest), Media: desc.MediaType, Size: desc.Size}
	if !o.wants(&e) {
		return
	}
	e = e.complete(ctx, o.now)
	b := &o.pulls
	b.mu.Lock()
	if len(b.events) < maxPulls {
		b.events = append(b.events, e)
	} else {
		b.lost++
	}
	b.mu.Unlock()
	notify(b.some)
}

// writePulls writes pulls to the outbox until ctx ends.
func (o *Outbox) writePulls(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
		case <-o.pulls.some:
			pause(ctx, pullsEvery, nil, nil)
		}
		o.flushPulls(context.WithoutCancel(ctx)) // the last ones too
		if ctx.Err() != nil {
			return
		}
	}
}

func (o *Outbox) flushPulls(ctx context.Context) {
	events, full := o.pulls.take()
	if full > 0 {
		o.log.WarnContext(ctx, "webhooks will not be told of pulls: too many at once", "pulls", full)
	}
	for some := range slices.Chunk(events, pullsAtOnce) {
		err := o.meta.Update(ctx, func(tx storage.Tx) error {
			for _, e := range some {
				if err := o.Append(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			o.pulls.lose(len(some))
			o.log.ErrorContext(ctx, "webhooks will not be told of pulls", "pulls", len(some), "error", err)
		}
		o.wake()
	}
}

// take empties the buffer, and says how many pulls found no room in it.
func (b *pullBuffer) take() (events []Event, full int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, full = b.events, b.lost-b.told
	b.events, b.told = nil, b.lost
	return events, full
}

// lose counts pulls that the store did not take.
func (b *pullBuffer) lose(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost += int64(n)
	b.told += int64(n)
}
