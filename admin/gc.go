package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Collector collects garbage; a gc.Worker is one.
type Collector interface {
	// Plan says what Now would remove, with all set.
	Plan(ctx context.Context, all bool) ([]registry.Garbage, error)
	// Now collects all that nothing needs.
	Now(ctx context.Context, progress func(registry.Collected)) error
}

// garbageBatch is how much garbage is told in one line.
const garbageBatch = 500

// maxQueued is how many reviews are counted before a collection, to show how far it
// is.
const maxQueued = 1_000_000

type (
	// Garbage is something that nothing needs.
	Garbage struct {
		Kind   string    `json:"kind"`                 // manifest, link (a blob of a repository) or blob (stored bytes)
		Repo   string    `json:"repository,omitempty"` // none for a blob
		Digest string    `json:"digest"`
		Size   int64     `json:"size"` // bytes that are free without it
		Since  time.Time `json:"since"`
		Why    string    `json:"why"`
	}
	// Collection is a part of what a collection does.
	Collection struct {
		Queued   int       `json:"queued,omitempty"`   // what there is to be looked at, in the first part
		Reviewed int       `json:"reviewed,omitempty"` // what was looked at
		Removed  []Garbage `json:"removed,omitempty"`
		Failed   int       `json:"failed,omitempty"` // bytes that could not be deleted; they are tried again later
	}
)

func newGarbage(g registry.Garbage) Garbage {
	garbage := Garbage{Repo: g.Repo, Digest: string(g.Digest), Size: g.Size, Since: g.Since.UTC()}
	switch g.Kind {
	case storage.ReviewManifest:
		garbage.Kind, garbage.Why = "manifest", "no tag, index or subject leads to it"
	case storage.ReviewLink:
		garbage.Kind, garbage.Why = "link", "no manifest of the repository needs it"
	default:
		garbage.Kind, garbage.Why = "blob", "no repository needs it"
	}
	return garbage
}

// planCollection tells what a collection would remove now.
func (c *call) planCollection() (int, any, error) {
	if c.Collector == nil {
		return 0, nil, errNotOffered
	}
	return c.stream(func(ctx context.Context, send func(any) error) error {
		plan, err := c.Collector.Plan(ctx, true)
		if err != nil {
			return err
		}
		return sendGarbage(plan, func(some []Garbage) error { return send(Collection{Removed: some}) })
	})
}

func sendGarbage(all []registry.Garbage, send func([]Garbage) error) error {
	for batch := range slices.Chunk(all, garbageBatch) {
		some := make([]Garbage, len(batch))
		for i, g := range batch {
			some[i] = newGarbage(g)
		}
		if err := send(some); err != nil {
			return err
		}
	}
	return nil
}

// collect collects now. A client that goes ends it: what was not done stays queued.
func (c *call) collect() (int, any, error) {
	if c.Collector == nil {
		return 0, nil, errNotOffered
	}
	return c.stream(func(ctx context.Context, send func(any) error) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		if c.Content != nil {
			queue, err := c.Content.Queue(ctx, maxQueued)
			if err != nil {
				return err
			}
			if err := send(Collection{Queued: queue.Reviews}); err != nil {
				return err
			}
		}
		err := c.Collector.Now(ctx, func(done registry.Collected) {
			err := send(Collection{Reviewed: done.Reviewed, Failed: done.Failed})
			if err == nil {
				err = sendGarbage(done.Removed, func(some []Garbage) error { return send(Collection{Removed: some}) })
			}
			if err != nil {
				cancel(err)
			}
		})
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		return err
	})
}

// Plan tells each what a collection would remove now, in parts.
func (c *Client) Plan(ctx context.Context, each func(Collection) error) error {
	return c.stream(ctx, http.MethodGet, "gc", eachOf(each))
}

// Collect collects now, and tells each what it does. To cancel ctx ends it.
func (c *Client) Collect(ctx context.Context, each func(Collection) error) error {
	return c.stream(ctx, http.MethodPost, "gc", eachOf(each))
}

// eachOf reads each line of an answer as a T.
func eachOf[T any](each func(T) error) func([]byte) error {
	return func(line []byte) error {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
		return each(v)
	}
}
