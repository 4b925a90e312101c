package backup

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// fingerprint stands for a digest: two that have the same keep more than is needed,
// and no one less.
type fingerprint [16]byte

func fingerprintOf(d digest.Digest) fingerprint {
	sum := sha256.Sum256([]byte(d))
	return fingerprint(sum[:16])
}

// prune removes all snapshots but the newest, and then the bytes that none of the rest
// needs. If one of those cannot be read, nobody knows what it needs, and all bytes
// stay.
func prune(ctx context.Context, t Target, keep int, res *Result) error {
	all, err := snapshotNames(ctx, t)
	if err != nil {
		return fmt.Errorf("remove older snapshots: %w", err)
	}
	kept := all[:min(keep, len(all))]
	needed := map[fingerprint]struct{}{}
	for _, s := range kept {
		if err := needs(ctx, t, s.Name, needed); err != nil {
			return fmt.Errorf("older snapshots are not removed: snapshot %s: %w", s.Name, err)
		}
	}
	for _, s := range all[len(kept):] {
		if err := t.Remove(ctx, snapshotPath(s.Name)); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", s.Name, err)
		}
		res.RemovedSnapshots++
	}
	for o, err := range t.List(ctx, blobPrefix) {
		if err != nil {
			return fmt.Errorf("remove what no snapshot needs: %w", err)
		}
		d, ok := blobOf(o.Name)
		if _, isNeeded := needed[fingerprintOf(d)]; !ok || isNeeded {
			continue
		}
		if err := t.Remove(ctx, o.Name); err != nil {
			return fmt.Errorf("remove what no snapshot needs: %w", err)
		}
		res.RemovedBlobs++
		res.RemovedBytes += o.Size
	}
	return nil
}

// needs adds the bytes that a snapshot needs to a set.
func needs(ctx context.Context, t Target, name string, set map[fingerprint]struct{}) error {
	s, closeIt, err := openSnapshot(ctx, t, name)
	if err != nil {
		return err
	}
	defer closeIt()
	return s.eachBlob(func(b stored) error {
		set[fingerprintOf(b.digest)] = struct{}{}
		return nil
	})
}
