package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/berth-registry/berth/storage"
)

const contentType = "application/octet-stream"

// head describes an object, or returns storage.ErrNotFound.
func (b *Blobs) head(ctx context.Context, key string) (o minio.ObjectInfo, err error) {
	err = b.try(ctx, "ask for", key, func(ctx context.Context) error {
		o, err = b.core.StatObject(ctx, b.bucket, key, minio.StatObjectOptions{})
		if isCode(err, minio.NoSuchKey) {
			return b.confirm(ctx, key)
		}
		return err
	})
	return o, err
}

// confirm is the reason why there seems to be no object. An answer to HEAD has no
// body, so that a bucket that is gone, or credentials that a server does not find,
// look like an object that is gone. Who is told so may forget a blob.
func (b *Blobs) confirm(ctx context.Context, key string) error {
	o := minio.GetObjectOptions{}
	if err := o.SetRange(0, 0); err != nil {
		return err
	}
	body, _, _, err := b.core.GetObject(ctx, b.bucket, key, o)
	if err != nil {
		return err
	}
	return errors.Join(errAnswer, body.Close()) // it has come since
}

// put makes an object. The server compares what it receives with its hash.
func (b *Blobs) put(ctx context.Context, key string, data *buffer) error {
	sum, err := hashOf(data)
	if err != nil {
		return err
	}
	return b.tryWrite(ctx, "store", key, func(ctx context.Context) error {
		o := minio.PutObjectOptions{ContentType: contentType, ServerSideEncryption: b.sse, DisableContentSha256: true}
		done, err := b.core.PutObject(ctx, b.bucket, key, data.reader(), data.n, "", sum, o)
		if err == nil && done.ETag == "" {
			err = errAnswer
		}
		return err
	})
}

// hashOf is the SHA-256 of what a request is to carry. It is part of the request's
// signature, so that every server checks it, with TLS or without.
func hashOf(data *buffer) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, data.reader()); err != nil {
		return "", local(err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// read appends the first size bytes of an object to a buffer.
func (b *Blobs) read(ctx context.Context, key string, off, size int64, to *buffer) error {
	r := b.newReader(ctx, key)
	r.pos, r.size, r.known = off, off+size, true
	defer func() { _ = r.Close() }() // it was only read
	n, err := io.Copy(to, r)
	if err == nil && n != size {
		err = fmt.Errorf("S3: %s has %d bytes too few: %w", strings.TrimPrefix(key, b.prefix), size-n, storage.ErrUnreadable)
	}
	return err
}

// remove removes an object, whether or not there is one.
func (b *Blobs) remove(ctx context.Context, key string) error {
	return b.tryWrite(ctx, "remove", key, func(ctx context.Context) error {
		err := b.core.RemoveObject(ctx, b.bucket, key, minio.RemoveObjectOptions{})
		if isCode(err, minio.NoSuchKey) {
			return nil
		}
		return err
	})
}

// list lists the objects whose keys start with prefix and are behind after, in the
// order of their keys.
func (b *Blobs) list(ctx context.Context, prefix, after string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		for more := true; more; {
			// A page at a time, so that what failed is tried again from where it was.
			var page []minio.ObjectInfo
			err := b.try(ctx, "list", prefix, func(ctx context.Context) (err error) {
				page, more, err = b.listPage(ctx, prefix, after)
				return err
			})
			if err != nil {
				yield(minio.ObjectInfo{}, err)
				return
			}
			for _, o := range page {
				if after = o.Key; strings.HasSuffix(o.Key, "/") {
					continue // some programs make objects that stand for directories
				}
				if ctx.Err() != nil {
					yield(minio.ObjectInfo{}, ctx.Err())
					return
				}
				if !yield(o, nil) {
					return
				}
			}
		}
	}
}

// pageSize is how many keys are asked for at once.
const pageSize = 1000

func (b *Blobs) listPage(ctx context.Context, prefix, after string) (page []minio.ObjectInfo, more bool, err error) {
	o := minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: after, MaxKeys: pageSize}
	for info := range b.core.ListObjectsIter(ctx, b.bucket, o) {
		if info.Err != nil {
			return nil, false, info.Err
		}
		if page = append(page, info); len(page) == pageSize {
			return page, true, nil
		}
	}
	return page, false, ctx.Err()
}

// sseHeaders are the headers that have the server encrypt what a copy makes.
func (b *Blobs) sseHeaders() map[string]string {
	if b.sse == nil {
		return nil
	}
	h := http.Header{}
	b.sse.Marshal(h)
	headers := map[string]string{}
	for name := range h {
		headers[name] = h.Get(name)
	}
	return headers
}
