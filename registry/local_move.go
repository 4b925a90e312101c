package registry

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// ErrTagElsewhere says that a tag does not name what it was to be moved from.
var ErrTagElsewhere = errors.New("the tag names something else by now")

// MoveTag has a tag name a manifest of its repository, if it still names another one. It
// fails with ErrTagElsewhere; with ErrTagImmutable, as a push would; and with
// ErrManifestUnknown if the manifest is gone.
func (l *Local) MoveTag(ctx context.Context, repo, tag string, from, to digest.Digest) error {
	return l.change(ctx, func(tx *changing) error {
		now, err := storage.Tags.Get(tx, storage.Key(repo, tag))
		switch {
		case isNotFound(err), err == nil && now.Digest != string(from):
			return ErrTagElsewhere
		case err != nil:
			return err
		}
		if _, err := getManifest(tx, repo, to); err != nil {
			return err
		}
		damaged, err := isDamaged(tx, to)
		if err != nil {
			return err
		}
		if damaged {
			return ErrManifestUnknown.With("what was stored of manifest %s is damaged: push it again", to)
		}
		return moveTag(tx, repo, tag, to)
	})
}
