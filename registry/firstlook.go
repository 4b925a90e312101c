package registry

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

const (
	// lookRows is how many rows a first look reads in one snapshot.
	lookRows = 1000
	// lookWrites is how many it changes in one transaction.
	lookWrites = 256
	// lookSave is how many snapshots it reads at most until it notes how far it is.
	lookSave = 32
)

// lookPhase is what a first look is at.
type lookPhase byte

// The phases of a first look, in their order. What tags have named comes first, as
// it keeps manifests.
const (
	lookHistory lookPhase = iota
	lookManifests
	lookLinks
	lookBlobs
	lookDone
)

// look is how far a first look is.
type look struct {
	phase lookPhase
	kept  bool   // manifests that nothing names were to be kept at the time
	after []byte // key of the last row that was read
}

// lookName is the name of the setting that says how far the first look is.
var lookName = storage.Key("first-look")

// FirstLook queues reviews of all that is garbage and has none queued, and fills in
// which manifests tags have named: what a version without collection has written
// lacks both, and so does what came to be garbage while Keeping said that untagged
// manifests are kept. It reads all rows, in small transactions, and goes on where it
// was if it was cut short. Once that is done it returns at once, until the store
// stops to keep untagged manifests.
func (l *Local) FirstLook(ctx context.Context) error {
	s, err := l.loadLook(ctx)
	if err != nil {
		return fmt.Errorf("first look: %w", err)
	}
	keeps := l.keeping.Load().Untagged
	switch {
	case s.phase == lookDone && s.kept && !keeps:
		s = look{phase: lookManifests}
	case s.phase == lookDone && s.kept == keeps:
		return nil
	default:
		s.kept = s.kept || keeps
	}
	if err := l.change(ctx, s.save); err != nil {
		return fmt.Errorf("first look: %w", err)
	}
	for n := 1; s.phase != lookDone; n++ {
		if err := l.lookStep(ctx, &s, n%lookSave == 0); err != nil {
			return fmt.Errorf("first look: %w", err)
		}
	}
	return nil
}

func (l *Local) loadLook(ctx context.Context) (s look, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Settings.Get(tx, lookName)
		if isNotFound(err) {
			return nil
		}
		if err == nil && (len(row.Value) < 2 || row.Value[0] > byte(lookDone)) {
			err = fmt.Errorf("damaged setting %s", lookName)
		}
		if err == nil {
			s = look{lookPhase(row.Value[0]), row.Value[1] != 0, slices.Clone(row.Value[2:])}
		}
		return err
	})
	return s, err
}

func (s *look) save(tx *changing) error {
	value := []byte{byte(s.phase), 0}
	if s.kept {
		value[1] = 1
	}
	return storage.Settings.Put(tx, lookName, storage.Setting{Value: append(value, s.after...)})
}

// lookStep reads some rows, and changes those that need it.
func (l *Local) lookStep(ctx context.Context, s *look, save bool) error {
	var keys [][]byte
	next := *s
	err := l.meta.View(ctx, func(tx storage.Tx) (err error) {
		c := &changing{Tx: tx, local: l, now: l.now()} // it is only asked
		keys, next.after, err = c.lookAt(s.phase, s.after)
		return err
	})
	if err != nil {
		return err
	}
	if next.after == nil {
		next.phase++
	}
	if len(keys) > 0 || save || next.phase != s.phase {
		err = l.change(ctx, func(tx *changing) error {
			for _, key := range keys {
				if err := tx.lookRow(s.phase, key); err != nil {
					return err
				}
			}
			return next.save(tx)
		})
	}
	if err == nil {
		*s = next
	}
	return err
}

// lookAt reads rows behind the key after, and returns the keys of those that need to
// be changed, and the last key that was read; nil if there are no more.
func (c *changing) lookAt(phase lookPhase, after []byte) (keys [][]byte, last []byte, err error) {
	table := map[lookPhase]string{
		lookHistory: storage.History.Name(), lookManifests: storage.Manifests.Name(),
		lookLinks: storage.Links.Name(), lookBlobs: storage.Stored.Name(),
	}[phase]
	n := 0
	for row, err := range c.Scan(table, nil, after) {
		if err != nil {
			return nil, nil, err
		}
		due, err := c.lookDue(phase, row.Key)
		if err != nil {
			return nil, nil, err
		}
		if due != 0 {
			keys = append(keys, bytes.Clone(row.Key))
		}
		if n++; n == lookRows || len(keys) == lookWrites {
			return keys, bytes.Clone(row.Key), nil
		}
	}
	return keys, nil, nil
}

// lookDue says when a row is due for review that nobody reviews; 0 for a row that
// needs nothing. For a move of a tag it is any other number if nothing tells it by
// its digest.
func (c *changing) lookDue(phase lookPhase, key []byte) (due int64, err error) {
	switch phase {
	case lookHistory:
		missing, err := c.lookPast(key, false)
		if missing {
			due = 1
		}
		return due, err
	case lookManifests:
		repo, d, err := cutContent(key)
		if err != nil {
			return 0, err
		}
		row, err := storage.Manifests.Get(c, key)
		if err != nil || row.Due != 0 {
			return 0, err
		}
		why, until, err := c.needed(repo, d, &row)
		if why == "" {
			until = c.afterGrace()
		}
		return until, err
	case lookLinks:
		row, err := storage.Links.Get(c, key)
		if err != nil || row.Due != 0 {
			return 0, err
		}
		needed, err := hasAny(storage.Parents.Scan(c, append(bytes.Clone(key), 0), nil))
		return c.unlessNeeded(needed), err
	case lookBlobs:
		row, err := storage.Stored.Get(c, key)
		if err != nil || row.Due != 0 || row.Deleting {
			return 0, err
		}
		needed, err := hasAny(storage.Holders.Scan(c, append(bytes.Clone(key), 0), nil))
		return c.unlessNeeded(needed), err
	default:
		return 0, nil
	}
}

func (c *changing) unlessNeeded(needed bool) int64 {
	if needed {
		return 0
	}
	return c.afterGrace()
}

// lookRow changes a row that lookAt has found, if it still needs it.
func (c *changing) lookRow(phase lookPhase, key []byte) error {
	if phase == lookHistory {
		_, err := c.lookPast(key, true)
		return err
	}
	due, err := c.lookDue(phase, key)
	if isNotFound(err) || err == nil && due == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	switch phase {
	case lookManifests:
		repo, d, err := cutContent(key)
		if err != nil {
			return err
		}
		return watchedManifests.queue(c, repo, d, due)
	case lookLinks:
		repo, d, err := cutContent(key)
		if err != nil {
			return err
		}
		return watchedLinks.queue(c, repo, d, due)
	default: // lookBlobs
		d, err := cutOnlyDigest(key)
		if err != nil {
			return err
		}
		return watchedBlobs.queue(c, "", d, due)
	}
}

// lookPast says whether a move of a tag lacks its row in Past, and fills it in. A
// manifest that is gone has none.
func (c *changing) lookPast(key []byte, fill bool) (missing bool, err error) {
	move, err := storage.History.Get(c, key)
	if err != nil || move.Digest == "" {
		return false, err
	}
	repo, rest, ok := bytes.Cut(key, []byte{0})
	tag, n, err := storage.CutTagMove(rest)
	if err != nil || !ok {
		return false, fmt.Errorf("damaged key: %x is no move of a tag", key)
	}
	part := storage.DigestPart(digest.Digest(move.Digest))
	there, err := storage.Manifests.Has(c, storage.Key(string(repo), part))
	if err != nil || !there {
		return false, err
	}
	past := storage.Key(string(repo), part, tag, storage.NumberPart(n))
	known, err := storage.Past.Has(c, past)
	if err == nil && !known && fill {
		err = storage.Past.Put(c, past, storage.Mark{})
	}
	return !known, err
}

// cutContent reads a key that is a repository and a digest.
func cutContent(key []byte) (repo string, d digest.Digest, err error) {
	name, part, ok := bytes.Cut(key, []byte{0})
	if !ok {
		return "", "", fmt.Errorf("damaged key: %x names no content of a repository", key)
	}
	d, err = cutOnlyDigest(part)
	return string(name), d, err
}
