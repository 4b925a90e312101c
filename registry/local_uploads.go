package registry

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// StartUpload begins a session.
func (l *Local) StartUpload(_ context.Context, repo string, alg digest.Algorithm) (string, error) {
	return newUploadID(l.key, repo, alg, time.Now()).text, nil
}

// UploadSize says how far a session is.
func (l *Local) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	uid, err := l.uploadID(repo, id)
	if err != nil {
		return 0, err
	}
	row, err := l.uploadRow(ctx, uid)
	if err != nil {
		return 0, err
	}
	return row.Size, openUpload(row)
}

// WriteUpload appends to a session.
func (l *Local) WriteUpload(ctx context.Context, repo, id string, chunk Chunk, r io.Reader) (int64, error) {
	u, err := l.enterUpload(ctx, repo, id, r)
	if err != nil {
		return 0, err
	}
	defer u.leave()
	if err := openUpload(u.row); err != nil {
		return 0, err
	}
	if err := l.roomFor(ctx, repo, "", r, u.row.Size); err != nil {
		return u.row.Size, err
	}
	if err := u.append(ctx, chunk, r); err != nil {
		return u.row.Size, err
	}
	return u.row.Size, u.save(ctx)
}

// CommitUpload makes a session a blob.
func (l *Local) CommitUpload(ctx context.Context, repo, id string, chunk Chunk, r io.Reader, d digest.Digest) (Descriptor, error) {
	u, err := l.enterUpload(ctx, repo, id, r)
	if err != nil {
		return Descriptor{}, err
	}
	defer u.leave()
	if u.row.State == storage.UploadCommitted && u.row.Digest == string(d) {
		return l.StatBlob(ctx, repo, d) // its client did not hear the first answer
	}
	if err := openUpload(u.row); err != nil {
		return Descriptor{}, err
	}
	if err := l.roomFor(ctx, repo, d, r, u.row.Size); err != nil {
		return Descriptor{}, errors.Join(err, u.endRefused(ctx, err))
	}
	u.want = d
	if err := u.append(ctx, chunk, r); err != nil {
		return Descriptor{}, err
	}
	return u.commit(ctx, repo, d)
}

// CancelUpload ends a session.
func (l *Local) CancelUpload(ctx context.Context, repo, id string) error {
	u, err := l.enterUpload(ctx, repo, id, nil)
	if err != nil {
		return err
	}
	defer u.leave()
	if err := openUpload(u.row); err != nil {
		return err
	}
	return u.end(ctx)
}

// uploadID reads the id of a session of repo.
func (l *Local) uploadID(repo, id string) (uploadID, error) {
	uid, ok := parseUploadID(l.key, repo, id)
	if !ok {
		return uid, ErrUploadUnknown.With("upload session %q is unknown to repository %s", clip(id), repo)
	}
	return uid, nil
}

// uploadRow reads the state of a session. One that has no row has not received
// a byte yet, or has expired.
func (l *Local) uploadRow(ctx context.Context, id uploadID) (row storage.Upload, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) (err error) {
		row, err = storage.Uploads.Get(tx, id.row)
		return err
	})
	if !isNotFound(err) {
		return row, err
	}
	if time.Since(id.started) > l.uploadExpiry() {
		return row, ErrUploadUnknown.With("upload session has expired: start again")
	}
	return storage.Upload{}, nil
}

// openUpload fails unless the session may receive bytes.
func openUpload(row storage.Upload) error {
	switch row.State {
	case storage.UploadOpen:
		return nil
	case storage.UploadCommitted:
		return ErrUploadUnknown.With("upload session has ended: it became blob %s", row.Digest)
	default:
		return ErrUploadUnknown.With("upload session has ended: it was canceled")
	}
}

// upload is a session in the hands of its one writer.
type upload struct {
	local *Local
	id    uploadID
	row   storage.Upload
	hash  hash.Hash
	stage storage.Stage
	want  digest.Digest // what it is to become; empty if that is not known
	claim *claim        // or nil, where there are no other processes
	leave func()
}

func (l *Local) enterUpload(ctx context.Context, repo, id string, body io.Reader) (*upload, error) {
	uid, err := l.uploadID(repo, id)
	if err != nil {
		return nil, err
	}
	leave, err := l.sessions.enter(ctx, id, body)
	if err != nil {
		return nil, err
	}
	u := &upload{local: l, id: uid}
	u.leave = func() {
		u.close()
		if u.claim != nil {
			u.claim.end(ctx)
		}
		leave()
	}
	if l.shared() {
		u.claim, u.row, err = l.claimUpload(ctx, uid, body)
	} else {
		u.row, err = l.uploadRow(ctx, uid)
	}
	if err != nil {
		leave()
		return nil, err
	}
	return u, nil
}

// append writes r behind what the session holds. If r fails, what came before
// is saved; if the store fails, the session stays as it was saved last.
func (u *upload) append(ctx context.Context, chunk Chunk, r io.Reader) error {
	start := u.row
	before := start.Size
	if chunk.Known && chunk.First != before {
		return ErrRangeInvalid.With("chunk starts at byte %d: the upload continues at byte %d", chunk.First, before)
	}
	if err := u.open(ctx); err != nil {
		return err
	}
	r, err := u.local.limit(r, before)
	if err != nil {
		return err
	}
	saved, n, err := u.receive(ctx, r)
	u.row.Size += n
	n += saved
	var broken readError
	switch {
	case errors.As(err, &broken):
		return errors.Join(err, u.save(context.WithoutCancel(ctx)))
	case err != nil:
		u.row.Size = before + saved
		return errors.Join(err, u.rewind(context.WithoutCancel(ctx)))
	case chunk.Known && n != chunk.Last-chunk.First+1:
		u.row.Size, u.row.Hash = before, start.Hash
		err := ErrSizeInvalid.With("chunk %d-%d came with %d bytes", chunk.First, chunk.Last, n)
		if saved > 0 {
			if perr := u.local.meta.Update(ctx, func(tx storage.Tx) error { return u.put(tx, u.row, true) }); perr != nil {
				return errors.Join(err, perr)
			}
		}
		return errors.Join(err, u.rewind(ctx))
	}
	return nil
}

// savedBytes is how much of a request is saved at once where another process may go on
// with the session when this one dies.
const savedBytes = 64 << 20

// receive writes r to the stage, and returns how many bytes of it were saved, and came
// after that.
func (u *upload) receive(ctx context.Context, r io.Reader) (saved, n int64, err error) {
	if u.claim == nil {
		n, err = receive(u.stage, u.hash, r)
		return 0, n, err
	}
	defer u.claim.received()
	for {
		some := &io.LimitedReader{R: r, N: savedBytes}
		n, err = receive(u.stage, u.hash, some)
		if err != nil || some.N > 0 {
			return saved, n, err
		}
		u.row.Size += n
		if err := u.saveAs(ctx, true); err != nil {
			u.row.Size -= n
			return saved, 0, err
		}
		saved += n
	}
}

// open opens the session's stage and restores its hash.
func (u *upload) open(ctx context.Context) (err error) {
	u.hash = u.id.alg.Hash()
	if u.row.Size > 0 {
		if err := u.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.row.Hash); err != nil {
			return fmt.Errorf("damaged state of an upload's hash: %w", err)
		}
	}
	if u.row.Size == 0 && u.want != "" && u.want.Algorithm() == u.id.alg { // of another one, all would be read again
		if u.claim.takesOver(u.row) {
			if err := u.local.blobs.Discard(ctx, u.id.text); err != nil {
				return err
			}
		}
		u.stage, err = storage.StageFor(ctx, u.local.blobs, u.id.text, u.want)
	} else {
		u.stage, err = u.local.blobs.Stage(ctx, u.id.text, u.row.Size)
	}
	if isNotFound(err) {
		err = ErrUploadUnknown.With("upload session has lost its bytes: start again")
	}
	if err != nil {
		u.stage = nil
		return err
	}
	u.stage = u.claim.claimed(ctx, u.stage)
	return nil
}

// close lets go of the session's stage, before it is discarded: a stage that is
// closed later would be there again.
func (u *upload) close() {
	if u.stage != nil {
		_ = u.stage.Close() // what counts was synced
		u.stage = nil
	}
}

// rewind gives back the space of bytes that do not count.
func (u *upload) rewind(ctx context.Context) error {
	u.close()
	if u.claim != nil {
		if err := u.claim.ensure(ctx); err != nil {
			return err
		}
	}
	if u.row.Size == 0 {
		return u.local.blobs.Discard(ctx, u.id.text)
	}
	s, err := u.local.blobs.Stage(ctx, u.id.text, u.row.Size)
	if err != nil {
		return err
	}
	return s.Close()
}

// save makes what the session holds durable, and lets others write to it.
func (u *upload) save(ctx context.Context) error {
	return u.saveAs(ctx, false)
}

// last runs fn, which writes the row for the last time.
func (u *upload) last(fn func() error) error {
	if u.claim == nil {
		return fn()
	}
	return u.claim.last(fn)
}

// saveAs makes what the session holds durable. With more, it goes on to write.
func (u *upload) saveAs(ctx context.Context, more bool) error {
	if err := u.stage.Sync(); err != nil {
		return err
	}
	state, err := u.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return fmt.Errorf("save an upload's hash: %w", err)
	}
	u.row.Hash = state
	write := func() error {
		return u.local.meta.Update(ctx, func(tx storage.Tx) error { return u.put(tx, u.row, more) })
	}
	if more {
		return write()
	}
	return u.last(write)
}

// put writes the session's row, and counts sessions that are open. With more, this is
// still who writes to the session.
func (u *upload) put(tx storage.Tx, row storage.Upload, more bool) error {
	var delta int64
	old, err := storage.Uploads.Get(tx, u.id.row)
	if err != nil && !isNotFound(err) {
		return err
	}
	if err := u.claim.isMine(old); err != nil {
		return err
	}
	if err == nil && old.State == storage.UploadOpen {
		delta--
	}
	if row.State == storage.UploadOpen {
		delta++
	}
	if delta != 0 {
		if err := storage.Add(tx, storage.CountUploads, delta); err != nil {
			return err
		}
	}
	row.Updated = time.Now()
	row.Writer, row.Beat, row.Wanted = "", old.Beat, false
	if more {
		row.Writer, row.Beat, row.Wanted = old.Writer, old.Beat+1, old.Wanted
	}
	return storage.Uploads.Put(tx, u.id.row, row)
}

// commit makes what the session holds the blob d and ends the session.
func (u *upload) commit(ctx context.Context, repo string, d digest.Digest) (Descriptor, error) {
	got, err := u.digest(d.Algorithm())
	if err != nil {
		return Descriptor{}, err
	}
	if got != d {
		err := ErrDigestInvalid.With("the %d bytes sent have the digest %s, not %s", u.row.Size, got, d)
		return Descriptor{}, errors.Join(err, u.end(ctx))
	}
	if err := u.local.room(ctx, repo, d, u.row.Size); err != nil {
		return Descriptor{}, errors.Join(err, u.endRefused(ctx, err))
	}
	arrival := u.local.arriving(d)
	defer arrival.end()
	if err := arrival.prepare(ctx); err != nil {
		return Descriptor{}, err
	}
	if err := u.stage.Commit(d); err != nil {
		return Descriptor{}, err
	}
	size := u.row.Size
	err = u.last(func() error {
		return arrival.stored(ctx, func(tx *changing) error {
			return errors.Join(
				linkNew(tx, repo, d, size),
				u.put(tx, storage.Upload{State: storage.UploadCommitted, Digest: string(d)}, false))
		})
	})
	return blobDescriptor(d, size), err
}

// digest returns the digest of what the session holds. If it was begun for
// another algorithm, all is read once more.
func (u *upload) digest(alg digest.Algorithm) (digest.Digest, error) {
	if alg == u.id.alg {
		return digest.NewDigest(alg, u.hash), nil
	}
	r, err := u.stage.Reader()
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // it was only read
	h := alg.Hash()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("read an upload again: %w", err)
	}
	return digest.NewDigest(alg, h), nil
}

// endRefused gives back the space of what a quota has refused.
func (u *upload) endRefused(ctx context.Context, err error) error {
	if !errors.Is(err, ErrQuota) {
		return nil
	}
	return u.end(ctx)
}

// end ends the session without a blob.
func (u *upload) end(ctx context.Context) error {
	u.close()
	err := u.last(func() error {
		return u.local.meta.Update(ctx, func(tx storage.Tx) error {
			return u.put(tx, storage.Upload{State: storage.UploadCanceled}, false)
		})
	})
	if err != nil {
		return err
	}
	return u.local.blobs.Discard(ctx, u.id.text)
}
