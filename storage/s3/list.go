package s3

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// List lists the objects that are blobs.
func (b *Blobs) List(ctx context.Context, after digest.Digest) iter.Seq2[storage.BlobInfo, error] {
	return func(yield func(storage.BlobInfo, error) bool) {
		prefix := b.prefix + "blobs/"
		for o, err := range b.list(ctx, prefix, prefix+keyAfter(string(after))) {
			if err != nil {
				yield(storage.BlobInfo{}, err)
				return
			}
			d := digestOf(strings.TrimPrefix(o.Key, prefix))
			if d == "" || d <= after {
				continue
			}
			if !yield(storage.BlobInfo{Digest: d, Size: o.Size, Modified: o.LastModified}, nil) {
				return
			}
		}
	}
}

// keyAfter is, below blobs, a key that no blob behind a digest sorts before. The
// digest may be none.
func keyAfter(after string) string {
	alg, hex, ok := strings.Cut(after, ":")
	switch {
	case !ok:
		return after
	case len(hex) < 2:
		return alg + "/" + hex
	}
	return alg + "/" + hex[:2] + "/" + hex
}

// digestOf is the digest of the blob whose key this is, below blobs; empty if it is
// that of none.
func digestOf(key string) digest.Digest {
	parts := strings.Split(key, "/")
	if len(parts) != 3 || !strings.HasPrefix(parts[2], parts[1]) || len(parts[1]) != 2 {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[2])
	if d.Validate() != nil {
		return ""
	}
	return d
}

// multipartID starts the id of a stage that is nothing but a multipart upload, of
// which only the server knows. What follows are the key below the prefix, and the id
// of the upload.
const multipartID = "multipart "

// Stages lists the stages that rows, objects or multipart uploads tell of.
func (b *Blobs) Stages(ctx context.Context) iter.Seq2[storage.StageInfo, error] {
	return func(yield func(storage.StageInfo, error) bool) {
		found, err := b.findStages(ctx)
		for id, modified := range found {
			if err != nil || !yield(storage.StageInfo{ID: id, Modified: modified}, nil) {
				break
			}
		}
		if err != nil {
			yield(storage.StageInfo{}, err)
		}
	}
}

// findStages says of each stage when anything of it was written last.
func (b *Blobs) findStages(ctx context.Context) (map[string]time.Time, error) {
	found := map[string]time.Time{}
	see := func(id string, at time.Time) {
		if at.After(found[id]) {
			found[id] = at
		}
	}
	uploads := map[string]string{} // id of the stage by that of the multipart upload
	err := b.meta.View(ctx, func(tx storage.Tx) error {
		for e, err := range storage.Stages.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			see(string(e.Key), e.Value.Updated)
			if e.Value.Upload != "" {
				uploads[e.Value.Upload] = string(e.Key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	prefix := b.prefix + "uploads/"
	for o, err := range b.list(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		if id, _, ok := strings.Cut(strings.TrimPrefix(o.Key, prefix), "/"); ok {
			see(id, o.LastModified)
		}
	}
	err = b.eachMultipart(ctx, b.prefix, func(u minio.ObjectMultipartInfo) error {
		id := b.multipartStage(u, uploads)
		if id == "" {
			return nil
		}
		at, err := b.lastPart(ctx, u)
		see(id, at)
		return err
	})
	return found, err
}

// multipartStage is the id of the stage that a multipart upload is of; empty if it is
// none of ours.
func (b *Blobs) multipartStage(u minio.ObjectMultipartInfo, uploads map[string]string) string {
	if id := uploads[u.UploadID]; id != "" {
		return id
	}
	key := strings.TrimPrefix(u.Key, b.prefix)
	kind, rest, _ := strings.Cut(key, "/")
	switch kind {
	case "uploads":
		id, _, _ := strings.Cut(rest, "/")
		return id
	case "blobs", "quarantine":
		return multipartID + key + " " + u.UploadID
	}
	return ""
}

// Discard removes a stage: its rows, its objects, and its multipart uploads.
func (b *Blobs) Discard(ctx context.Context, id string) error {
	if rest, ok := strings.CutPrefix(id, multipartID); ok {
		key, upload, _ := strings.Cut(rest, " ")
		return b.abort(ctx, b.prefix+key, upload)
	}
	if err := checkID(id); err != nil {
		return err
	}
	state, _, err := b.load(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err == nil || state.Rev != "": // rows that do not fit together go, too
		if state.Upload != "" {
			if err := b.abort(ctx, state.Key, state.Upload); err != nil {
				return err
			}
		}
		if err := b.forget(ctx, id); err != nil {
			return err
		}
	default:
		return err
	}
	return b.empty(ctx, b.stageDir(id))
}

// empty removes what is below a directory of a stage.
func (b *Blobs) empty(ctx context.Context, dir string) error {
	for o, err := range b.list(ctx, dir, "") {
		if err == nil {
			err = b.remove(ctx, o.Key)
		}
		if err != nil {
			return err
		}
	}
	return b.eachMultipart(ctx, dir, func(u minio.ObjectMultipartInfo) error {
		return b.abort(ctx, u.Key, u.UploadID)
	})
}
