package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// What the metadata says of a repository is written to a note beside the blobs a
// little later, so that it can be made anew if the metadata is lost (Rebuild): which
// manifests there are, and where the tags point. What those need is in the
// manifests; what sparse ones need is not made anew, but fetched again. Accounts, the
// history of tags and leases are in the metadata alone.

// notePrefix is how the names of such notes start; a repository's name follows.
const notePrefix = "repositories/"

// snapshotBatch is how many repositories are looked up at a time.
const snapshotBatch = 256

// noteLine is a line of a note: a manifest, or a tag with its digest.
type noteLine struct {
	Manifest digest.Digest `json:"manifest,omitempty"`
	Media    string        `json:"mediaType,omitempty"`
	Sparse   bool          `json:"sparse,omitempty"`
	Tag      string        `json:"tag,omitempty"`
	Digest   digest.Digest `json:"digest,omitempty"`
	Moved    time.Time     `json:"moved,omitzero"`
}

// touch notes that a repository has changed.
func (c *changing) touch(repo string) error {
	row, err := storage.Changed.Get(c, storage.Key(repo))
	if err != nil && !isNotFound(err) {
		return err
	}
	row.N = max(row.N+1, c.now.UnixMicro()) // not one that was there before, if the row was gone meanwhile
	return storage.Changed.Put(c, storage.Key(repo), row)
}

// Snapshot writes notes of the repositories that have changed since they were
// written last, and returns how many. If it fails, what was not written is left
// for the next time.
func (l *Local) Snapshot(ctx context.Context, notes storage.Notes) (written int, err error) {
	if err := l.firstSnapshot(ctx); err != nil {
		return 0, err
	}
	for {
		changed := map[string]int64{}
		err := l.meta.View(ctx, func(tx storage.Tx) error {
			for e, err := range storage.Changed.Scan(tx, nil, nil) {
				if err != nil {
					return err
				}
				if changed[string(e.Key)] = e.Value.N; len(changed) == snapshotBatch {
					break
				}
			}
			return nil
		})
		if err != nil || len(changed) == 0 {
			return written, err
		}
		for repo := range changed {
			if err := l.note(ctx, notes, repo); err != nil {
				return written, fmt.Errorf("note of repository %s: %w", repo, err)
			}
			written++
		}
		if err := l.noted(ctx, changed); err != nil {
			return written, err
		}
	}
}

// noted forgets that repositories have changed, unless they have again.
func (l *Local) noted(ctx context.Context, changed map[string]int64) error {
	return l.meta.Update(ctx, func(tx storage.Tx) error {
		for repo, n := range changed {
			row, err := storage.Changed.Get(tx, storage.Key(repo))
			if err != nil && !isNotFound(err) {
				return err
			}
			if err == nil && row.N == n {
				if err := storage.Changed.Delete(tx, storage.Key(repo)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// notedMark is the name of the setting that says that every repository was noted
// once.
const notedMark = "noted-repositories"

// ForgetNotes has every repository noted anew by the next Snapshot: the notes are not
// those of this store.
func ForgetNotes(tx storage.Tx) error { return storage.Settings.Delete(tx, storage.Key(notedMark)) }

// firstSnapshot has every repository noted, once: those from before there were
// notes, too.
func (l *Local) firstSnapshot(ctx context.Context) error {
	mark := storage.Key(notedMark)
	after, done := []byte(nil), false
	for !done {
		err := l.change(ctx, func(tx *changing) error {
			done = false
			state, err := storage.Settings.Get(tx, mark)
			if err != nil && !isNotFound(err) {
				return err
			}
			if err == nil && len(state.Value) == 0 {
				done = true
				return nil
			}
			after = state.Value
			var names []string
			for e, err := range storage.Repos.Scan(tx, nil, after) {
				if err != nil {
					return err
				}
				if names = append(names, string(e.Key)); len(names) == snapshotBatch {
					break
				}
			}
			for _, name := range names {
				if err := tx.touch(name); err != nil {
					return err
				}
			}
			next := storage.Setting{}
			if len(names) == snapshotBatch {
				next.Value = []byte(names[len(names)-1])
			}
			done = len(next.Value) == 0
			return storage.Settings.Put(tx, mark, next)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// note writes what the metadata says of a repository.
func (l *Local) note(ctx context.Context, notes storage.Notes, repo string) error {
	var b bytes.Buffer
	w := json.NewEncoder(&b)
	err := l.meta.View(ctx, func(tx storage.Tx) error {
		prefix := storage.Key(repo, "")
		for e, err := range storage.Manifests.Scan(tx, prefix, nil) {
			if err != nil {
				return err
			}
			d, _, err := storage.CutDigest(e.Rest)
			if err != nil {
				return err
			}
			if err := w.Encode(noteLine{Manifest: d, Media: e.Value.MediaType, Sparse: e.Value.Sparse}); err != nil {
				return err
			}
		}
		for e, err := range storage.Tags.Scan(tx, prefix, nil) {
			if err != nil {
				return err
			}
			if err := w.Encode(noteLine{Tag: string(e.Rest), Digest: digest.Digest(e.Value.Digest), Moved: e.Value.Moved}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if b.Len() == 0 {
		return notes.DeleteNote(ctx, notePrefix+repo)
	}
	return notes.PutNote(ctx, notePrefix+repo, b.Bytes())
}

// AdoptBlob makes bytes that are in the blob store already a blob of a repository,
// or fails with ErrBlobUnknown. That they are d it takes for granted.
func (l *Local) AdoptBlob(ctx context.Context, repo string, d digest.Digest) (Descriptor, error) {
	arrival := l.arriving(d)
	defer arrival.end()
	if err := arrival.prepare(ctx); err != nil {
		return Descriptor{}, err
	}
	size, err := l.blobs.Size(ctx, d)
	if isNotFound(err) {
		return Descriptor{}, ErrBlobUnknown.With("blob %s is not in the blob store", d)
	}
	if err != nil {
		return Descriptor{}, err
	}
	err = arrival.stored(ctx, func(tx *changing) error { return linkNew(tx, repo, d, size) })
	return blobDescriptor(d, size), err
}

// Rebuilt is what a rebuild has found.
type Rebuilt struct {
	Repo      string
	Manifests int
	Tags      int
	Problems  []error // what could not be made anew, and why
}

// Rebuild makes the metadata of every repository anew that notes tell of, from
// the manifests in the blob store. It calls done for each; what is there already
// stays, so it can be done again. It fails if it cannot go on at all.
func (l *Local) Rebuild(ctx context.Context, notes storage.Notes, done func(Rebuilt)) error {
	for name, err := range notes.NoteNames(ctx) {
		if err != nil {
			return err
		}
		repo, ok := strings.CutPrefix(name, notePrefix)
		if !ok || !ValidRepository(repo) {
			continue
		}
		data, err := notes.Note(ctx, name)
		if err != nil {
			return err
		}
		r := rebuild{local: l, Rebuilt: Rebuilt{Repo: repo}, media: map[digest.Digest]string{}, loose: map[digest.Digest]bool{}, made: map[digest.Digest]error{}}
		if err := r.run(ctx, data); err != nil {
			return err
		}
		done(r.Rebuilt)
	}
	return nil
}

// rebuild makes a repository anew.
type rebuild struct {
	Rebuilt
	local *Local
	media map[digest.Digest]string // of the manifests of the repository
	loose map[digest.Digest]bool   // of them, those that are sparse
	made  map[digest.Digest]error  // those that are done, and how that ended
}

func (r *rebuild) problem(err error) { r.Problems = append(r.Problems, err) }

func (r *rebuild) run(ctx context.Context, data []byte) error {
	var order []digest.Digest
	var tags []noteLine
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var line noteLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			r.problem(fmt.Errorf("damaged line of the note: %w", err))
			continue
		}
		d, err := ParseDigest(string(line.Manifest + line.Digest)) // one of them
		switch {
		case err != nil, line.Tag != "" && !ValidTag(line.Tag):
			r.problem(fmt.Errorf("damaged line of the note: %q", clip(lines.Text())))
		case line.Tag != "":
			tags = append(tags, line)
		default:
			order, r.media[d] = append(order, d), line.Media
			r.loose[d] = line.Sparse
		}
	}
	for _, d := range order {
		if err := r.manifest(ctx, d); err != nil {
			if fatal(ctx, err) {
				return err
			}
			r.problem(fmt.Errorf("manifest %s: %w", d, err))
			continue
		}
		r.Manifests++
	}
	for _, t := range tags {
		if err := r.tag(ctx, t); err != nil {
			if fatal(ctx, err) {
				return err
			}
			r.problem(fmt.Errorf("tag %s: %w", t.Tag, err))
			continue
		}
		r.Tags++
	}
	return nil
}

// fatal says that it makes no sense to go on after an error.
func fatal(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, storage.ErrNoSpace) || errors.Is(err, storage.ErrReadOnly) || errors.Is(err, storage.ErrClosed)
}

// manifest makes a manifest anew, and before it what it needs.
func (r *rebuild) manifest(ctx context.Context, d digest.Digest) (err error) {
	if err, ok := r.made[d]; ok {
		return err
	}
	r.made[d] = errors.New("it needs itself")
	defer func() { r.made[d] = err }()
	data, err := r.local.readAll(ctx, d)
	if err != nil {
		return err
	}
	m, err := parseManifest(data, r.media[d])
	if err != nil {
		return err
	}
	push := ManifestPush{Data: data, Digest: d, MediaType: r.media[d], Sparse: r.loose[d]}
	if push.Sparse {
		// Bytes that others have are no cache's because another registry names them.
		m.Refs = nil
	}
	for _, ref := range m.Refs {
		if _, isManifest := r.media[ref.Digest]; m.Index && isManifest {
			err = r.manifest(ctx, ref.Digest)
		} else {
			_, err = r.local.AdoptBlob(ctx, r.Repo, ref.Digest)
		}
		if err != nil {
			return fmt.Errorf("needs %s: %w", ref.Digest, err)
		}
	}
	_, err = r.local.PushManifest(ctx, r.Repo, push)
	return err
}

func (r *rebuild) tag(ctx context.Context, t noteLine) error {
	return r.local.change(ctx, func(tx *changing) error {
		if _, err := getManifest(tx, r.Repo, t.Digest); err != nil {
			return err
		}
		if !t.Moved.IsZero() {
			tx.now = t.Moved
		}
		return moveTag(tx, r.Repo, t.Tag, t.Digest)
	})
}
