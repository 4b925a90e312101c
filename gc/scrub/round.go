package scrub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

const (
	// page is how many blobs are asked for at once.
	page = 256
	// listed is how many blobs of the blob store are compared with the metadata at
	// once.
	listed = 256
)

// load reads how far the scrub is. A store that was never scrubbed has the zero
// Scrub.
func load(tx storage.Tx) (storage.Scrub, error) {
	state, err := storage.Scrubs.Get(tx, storage.ScrubKey)
	if errors.Is(err, storage.ErrNotFound) {
		return storage.Scrub{}, nil
	}
	if state.After != "" && digest.Digest(state.After).Validate() != nil {
		state.After = "" // better from the start than not at all
	}
	return state, err
}

func (s *Scrub) load(ctx context.Context) (state storage.Scrub, err error) {
	err = s.meta.View(ctx, func(tx storage.Tx) (err error) {
		state, err = load(tx)
		return err
	})
	return state, err
}

// round is a round that goes on.
type round struct {
	*Scrub
	at      storage.Scrub
	saved   time.Time // when it was written down how far it is
	skipped int       // blobs in a row of which nothing could be found out
}

// round begins a round, or goes on with one, until its end.
func (s *Scrub) round(ctx context.Context) (err error) {
	r := &round{Scrub: s, saved: s.now()}
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.hide()
	if err := r.run(ctx); err != nil {
		return errors.Join(err, r.save(context.WithoutCancel(ctx)))
	}
	return r.finish(ctx)
}

// begin reads how far the round is. If somebody has asked for it, it goes on whatever
// it finds.
func (r *round) begin(ctx context.Context) error {
	forced := false
	err := r.meta.Update(ctx, func(tx storage.Tx) (err error) {
		if r.at, err = load(tx); err != nil {
			return err
		}
		forced = !r.at.Wanted.IsZero()
		if r.at.Began.IsZero() {
			r.at = storage.Scrub{Began: r.now(), Last: r.at.Last}
		}
		r.at.Wanted = time.Time{}
		return storage.Scrubs.Put(tx, storage.ScrubKey, r.at)
	})
	r.confirming.Lock()
	r.forced = forced
	r.confirming.Unlock()
	r.show()
	return err
}

func (r *round) run(ctx context.Context) error {
	if !r.at.Listing {
		if err := r.read(ctx); err != nil {
			return fmt.Errorf("read what is stored: %w", err)
		}
		r.at.Listing, r.at.After = true, ""
		if err := r.save(ctx); err != nil {
			return err
		}
	}
	if err := r.list(ctx); err != nil {
		return fmt.Errorf("look for what nobody knows: %w", err)
	}
	return nil
}

// read checks all blobs that the metadata knows.
func (r *round) read(ctx context.Context) error {
	for {
		blobs, next, err := r.registry.StoredBlobs(ctx, digest.Digest(r.at.After), page)
		if err != nil {
			return err
		}
		for _, blob := range blobs {
			found, err := r.examine(ctx, blob, true)
			if err := r.skip(ctx, blob.Digest, err); err != nil {
				return err
			}
			r.at.After = string(blob.Digest)
			r.at.Blobs++
			r.at.Bytes += found.bytes
			if found.kind != 0 {
				r.at.Damaged++
			}
			if err := r.step(ctx); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		r.at.After = string(next)
	}
}

// skip returns err, unless it is about one blob alone, which it does not name damaged.
func (r *round) skip(ctx context.Context, d digest.Digest, err error) error {
	unchecked := (*uncheckedError)(nil)
	if !errors.As(err, &unchecked) {
		if err == nil {
			r.skipped = 0
		}
		return err
	}
	if r.skipped++; r.skipped > maxInRow {
		return err
	}
	r.log.WarnContext(ctx, "cannot check stored bytes; the next round will", "digest", d, "error", err)
	return nil
}

// list hands blobs that nobody knows to collection.
func (r *round) list(ctx context.Context) error {
	var some []storage.BlobInfo
	adopt := func() error {
		if len(some) == 0 {
			return nil
		}
		adopted, err := r.registry.Adopt(ctx, some)
		if err != nil {
			return err
		}
		if len(adopted) > 0 {
			r.log.WarnContext(ctx, "found blobs that no repository knows, as a crash leaves them; they go as garbage", "blobs", len(adopted), "first", adopted[0].Digest)
		}
		r.at.Leaked += int64(len(adopted))
		r.at.After = string(some[len(some)-1].Digest)
		some = some[:0]
		return r.step(ctx)
	}
	for info, err := range r.blobs.List(ctx, digest.Digest(r.at.After)) {
		if err != nil {
			return err
		}
		if some = append(some, info); len(some) == listed {
			if err := adopt(); err != nil {
				return err
			}
		}
	}
	return adopt()
}

// step shows how far the round is, and writes it down now and then.
func (r *round) step(ctx context.Context) error {
	r.show()
	if r.now().Sub(r.saved) < saveEvery {
		return ctx.Err()
	}
	return r.save(ctx)
}

func (r *round) save(ctx context.Context) error {
	r.saved = r.now()
	return r.meta.Update(ctx, func(tx storage.Tx) error { return storage.Scrubs.Put(tx, storage.ScrubKey, r.at) })
}

// finish ends the round.
func (r *round) finish(ctx context.Context) error {
	r.at = storage.Scrub{Last: storage.ScrubDone{
		Began: r.at.Began, Finished: r.now(), Blobs: r.at.Blobs, Bytes: r.at.Bytes, Damaged: r.at.Damaged, Leaked: r.at.Leaked,
	}}
	if err := r.save(ctx); err != nil {
		return err
	}
	last := r.at.Last
	r.log.InfoContext(ctx, "all that is stored was checked",
		"blobs", last.Blobs, "bytes", last.Bytes, "damaged", last.Damaged, "leaked", last.Leaked, "took", last.Finished.Sub(last.Began).Round(time.Second).String())
	return nil
}

// show has Status tell how far the round is.
func (r *round) show() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.running = r.at, true
}

func (r *round) hide() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = false
}
