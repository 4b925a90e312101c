package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/berth-registry/berth/storage"
)

// skipMost is up to how many bytes are read to get further on in an answer, rather
// than to ask anew.
const skipMost = 64 << 10

// reader reads an object: the answer to one request as long as that lasts, then that
// to another one from where it was.
type reader struct {
	blobs *Blobs
	ctx   context.Context //nolint:containedctx // of Open: the methods of io.Reader take none
	key   string
	etag  string // of what was read first
	size  int64
	known bool // size is
	pos   int64
	body  io.ReadCloser // or nil
	at    int64         // where body is
	fails int           // since the last byte
}

func (b *Blobs) newReader(ctx context.Context, key string) *reader {
	return &reader{blobs: b, ctx: ctx, key: key}
}

// first asks for all of the object, and so learns whether there is one and its size.
func (r *reader) first() error {
	return r.get(minio.GetObjectOptions{})
}

// open asks for what is behind pos.
func (r *reader) open() error {
	o := minio.GetObjectOptions{}
	if r.pos > 0 {
		if err := o.SetRange(r.pos, r.size-1); err != nil {
			return err
		}
	}
	if r.etag != "" {
		if err := o.SetMatchETag(r.etag); err != nil {
			return err
		}
	}
	err := r.get(o)
	if !isCode(err, minio.PreconditionFailed) {
		return err
	}
	// Somebody has stored the same blob again.
	now, err := r.blobs.head(r.ctx, r.key)
	if err == nil && (now.Size != r.size || now.ETag == r.etag) {
		err = fmt.Errorf("S3: %s was replaced while it was read: %w", strings.TrimPrefix(r.key, r.blobs.prefix), storage.ErrUnreadable)
	}
	if err != nil {
		return err
	}
	r.etag = now.ETag
	if err := o.SetMatchETag(r.etag); err != nil {
		return err
	}
	return r.get(o)
}

func (r *reader) get(o minio.GetObjectOptions) error {
	return r.blobs.try(r.ctx, "read", r.key, func(ctx context.Context) error {
		body, info, _, err := r.blobs.core.GetObject(ctx, r.blobs.bucket, r.key, o)
		if err != nil {
			return err
		}
		if !r.known && r.etag == "" && r.pos == 0 {
			r.size, r.known = info.Size, true
		}
		if r.etag == "" {
			r.etag = info.ETag
		}
		if info.Size != r.size-r.pos && !r.shorter(info.Size) {
			return errors.Join(errAnswer, body.Close())
		}
		r.body, r.at = body, r.pos
		return nil
	})
}

// shorter says whether the answer may have another length than what is wanted: when
// the first bytes of an object are wanted, it has all of them.
func (r *reader) shorter(answer int64) bool { return r.pos == 0 && answer > r.size }

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.pos >= r.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := r.align(); err != nil {
			return 0, err
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.size-r.pos)])
		r.pos += int64(n)
		r.at += int64(n)
		if n > 0 {
			r.fails = 0
			if err != nil {
				r.drop()
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		r.drop()
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again waits before what was cut off is asked for again, if there is hope.
func (r *reader) again(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	r.fails++
	if r.fails > r.blobs.retries {
		return r.blobs.failed("read", r.key, cause(err))
	}
	return sleep(r.ctx, r.blobs.pauseAfter(r.fails-1))
}

// align makes body be at pos.
func (r *reader) align() error {
	if r.body != nil && r.at < r.pos && r.pos-r.at <= skipMost {
		n, err := io.CopyN(io.Discard, r.body, r.pos-r.at)
		if r.at += n; err != nil {
			r.drop()
		}
	}
	if r.body != nil && r.at != r.pos {
		r.drop()
	}
	if r.body == nil {
		return r.open()
	}
	return nil
}

func (r *reader) drop() {
	_ = r.body.Close() // it was only read
	r.body = nil
}

// Seek implements io.Seeker. It asks the server for nothing.
func (r *reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return r.pos, errors.New("seek to before the start of a blob")
	}
	r.pos = off
	return off, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.body != nil {
		r.drop()
	}
	return nil
}

// redirecting is a reader of a blob that can also be had from elsewhere.
type redirecting struct {
	*reader
	blobs *Blobs
}

// RedirectURL makes a URL from which anybody gets the blob for some time.
func (r *redirecting) RedirectURL(ctx context.Context) (string, error) {
	u, err := r.blobs.public.PresignedGetObject(ctx, r.blobs.bucket, r.key, r.blobs.expiry, url.Values{"response-content-type": {contentType}})
	if err != nil {
		return "", r.blobs.failed("sign a URL of", r.key, cause(err))
	}
	return u.String(), nil
}
