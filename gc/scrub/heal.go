package scrub

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

const (
	// healEvery is how often it is tried to get the same bytes anew.
	healEvery = time.Hour
	// maxHealRepos is how many repositories Options.Heal is told of at most.
	maxHealRepos = 100
)

// healing gets damaged bytes anew, from wherever Options.Heal does. What is to be got
// is what the registry says is damaged, so that neither a restart nor a crash forgets
// any of it.
type healing struct {
	*Scrub
	tried map[digest.Digest]time.Time
}

// heal gets damaged bytes anew: soon after the start, when some were found, and every
// hour, until ctx ends.
func (s *Scrub) heal(ctx context.Context) {
	if s.healer == nil {
		return
	}
	h := healing{s, map[digest.Digest]time.Time{}}
	for {
		if err := h.all(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot look for damaged bytes that can be had anew", "error", err)
		}
		timer := time.NewTimer(healEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.hurt:
		}
		timer.Stop()
	}
}

// all tries all that is damaged and was not tried lately.
func (h *healing) all(ctx context.Context) error {
	var damaged []registry.DamagedBlob
	still := map[digest.Digest]time.Time{}
	for blob, err := range h.registry.Damaged(ctx) {
		if err != nil {
			return err
		}
		at, tried := h.tried[blob.Digest]
		if tried {
			still[blob.Digest] = at
		}
		if !tried || h.now().Sub(at) >= healEvery {
			blob.Repos = blob.Repos[:min(len(blob.Repos), maxHealRepos)]
			damaged = append(damaged, blob)
		}
	}
	h.tried = still
	for _, blob := range damaged {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if blob.Moving || len(blob.Repos) == 0 { // not yet, and not any more
			continue
		}
		h.tried[blob.Digest] = h.now()
		switch err := h.healer(ctx, blob.Digest, blob.Repos); {
		case err == nil:
			delete(h.tried, blob.Digest) // should it be damaged once more, that is news
			h.log.InfoContext(ctx, "damaged bytes were had anew", "digest", blob.Digest)
		case !errors.Is(err, errors.ErrUnsupported):
			h.log.WarnContext(ctx, "damaged bytes cannot be had anew; will try again", "digest", blob.Digest, "error", err)
		}
	}
	return nil
}
