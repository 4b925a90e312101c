package s3

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/storage"
)

// copiesAtOnce is how many parts of an object are copied at the same time.
const copiesAtOnce = 4

// begin begins a multipart upload.
func (b *Blobs) begin(ctx context.Context, key string) (upload string, err error) {
	err = b.tryWrite(ctx, "begin a multipart upload of", key, func(ctx context.Context) (err error) {
		upload, err = b.core.NewMultipartUpload(ctx, b.bucket, key, minio.PutObjectOptions{ContentType: contentType, ServerSideEncryption: b.sse})
		if err == nil && upload == "" {
			err = errAnswer
		}
		return err
	})
	return upload, err
}

// putPart sends the i-th part of a multipart upload, the first is 0, in place of one
// that was sent before.
func (b *Blobs) putPart(ctx context.Context, key, upload string, i int, data *buffer) (storage.StagedPart, error) {
	sum, err := hashOf(data)
	if err != nil {
		return storage.StagedPart{}, err
	}
	part := storage.StagedPart{Size: data.n}
	err = b.tryWrite(ctx, fmt.Sprintf("store part %d of", i+1), key, func(ctx context.Context) error {
		o := minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true}
		sent, err := b.core.PutObjectPart(ctx, b.bucket, key, upload, i+1, data.reader(), data.n, o)
		if part.ETag = sent.ETag; err == nil && part.ETag == "" {
			err = errAnswer
		}
		return err
	})
	return part, err
}

// completion is what became of the attempt to complete a multipart upload.
type completion struct {
	lost  bool // there is no such upload: it was completed, aborted, or never begun
	asked bool // this process has asked for its completion before that was seen
}

// complete makes the parts of a multipart upload an object.
func (b *Blobs) complete(ctx context.Context, key, upload string, parts []storage.StagedPart) (c completion, err error) {
	list := make([]minio.CompletePart, len(parts))
	var size int64
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: i + 1, ETag: p.ETag}
		size += p.Size
	}
	attempts := 0
	err = b.tryWrite(withPatience(ctx, copyTime(size)), "complete", key, func(ctx context.Context) error {
		attempts++
		done, err := b.core.CompleteMultipartUpload(ctx, b.bucket, key, upload, list, minio.PutObjectOptions{})
		if err == nil && done.ETag == "" {
			err = errAnswer
		}
		return err
	})
	return completion{lost: isCode(err, minio.NoSuchUpload), asked: attempts > 1}, err
}

// abort ends a multipart upload and frees its parts, if it is there.
func (b *Blobs) abort(ctx context.Context, key, upload string) error {
	return b.tryWrite(ctx, "abort the multipart upload of", key, func(ctx context.Context) error {
		err := b.core.AbortMultipartUpload(ctx, b.bucket, key, upload)
		if isCode(err, minio.NoSuchUpload) {
			return nil
		}
		return err
	})
}

// copy copies an object of size bytes within the server.
func (b *Blobs) copy(ctx context.Context, from, to string, size int64) error {
	if size > b.copyMost {
		return b.copyParts(ctx, from, to, size)
	}
	return b.tryWrite(withPatience(ctx, copyTime(size)), "copy to", to, func(ctx context.Context) error {
		done, err := b.core.CopyObject(ctx, b.bucket, from, b.bucket, to, b.sseHeaders(), minio.CopySrcOptions{}, minio.PutObjectOptions{})
		if err == nil && done.ETag == "" { // an error can come after the status
			err = errAnswer
		}
		return err
	})
}

// copyParts copies a large object by a multipart upload.
func (b *Blobs) copyParts(ctx context.Context, from, to string, size int64) error {
	upload, err := b.begin(ctx, to)
	if err != nil {
		return err
	}
	parts, err := b.copyInto(ctx, from, to, upload, size)
	if err == nil {
		var c completion
		if c, err = b.complete(ctx, to, upload, parts); c.lost && c.asked {
			o, herr := b.head(ctx, to)
			if herr == nil && o.Size == size {
				return nil // the answer to the attempt that succeeded was lost
			}
		}
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.timeout)
		defer cancel()
		b.warn(ctx, b.abort(ctx, to, upload))
	}
	return err
}

// copyInto makes the first size bytes of an object parts of a multipart upload.
func (b *Blobs) copyInto(ctx context.Context, from, to, upload string, size int64) ([]storage.StagedPart, error) {
	parts := ranges(size, b.copyPart)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copiesAtOnce)
	var off int64
	for i, p := range parts {
		from, start := from, off
		off += p.Size
		g.Go(func() error {
			return b.tryWrite(withPatience(ctx, copyTime(p.Size)), fmt.Sprintf("copy part %d to", i+1), to, func(ctx context.Context) error {
				done, err := b.core.CopyObjectPart(ctx, b.bucket, from, b.bucket, to, upload, i+1, start, p.Size, nil)
				if parts[i].ETag = strings.Trim(done.ETag, `"`); err == nil && parts[i].ETag == "" {
					err = errAnswer
				}
				return err
			})
		})
	}
	return parts, g.Wait()
}

// ranges divides size bytes into parts of at most part bytes.
func ranges(size, part int64) (parts []storage.StagedPart) {
	for ; size > 0; size -= part {
		parts = append(parts, storage.StagedPart{Size: min(size, part)})
	}
	return parts
}

// multipartPage lists multipart uploads whose keys start with prefix.
func (b *Blobs) multipartPage(ctx context.Context, prefix, afterKey, afterUpload string) (page minio.ListMultipartUploadsResult, err error) {
	err = b.try(ctx, "list the multipart uploads of", prefix, func(ctx context.Context) (err error) {
		page, err = b.core.ListMultipartUploads(ctx, b.bucket, prefix, afterKey, afterUpload, "", pageSize)
		return err
	})
	return page, err
}

// eachMultipart calls fn for each multipart upload whose key starts with prefix.
func (b *Blobs) eachMultipart(ctx context.Context, prefix string, fn func(minio.ObjectMultipartInfo) error) error {
	afterKey, afterUpload := "", ""
	for {
		page, err := b.multipartPage(ctx, prefix, afterKey, afterUpload)
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if !strings.HasPrefix(u.Key, prefix) {
				continue // not every server knows the prefix
			}
			if err := fn(u); err != nil {
				return err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == afterKey && page.NextUploadIDMarker == afterUpload {
			return nil
		}
		afterKey, afterUpload = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// lastPart is when the last part of a multipart upload was stored, or else when the
// upload began. One that began just now is not asked for its parts.
func (b *Blobs) lastPart(ctx context.Context, u minio.ObjectMultipartInfo) (time.Time, error) {
	last := u.Initiated
	if b.now().Sub(last) < time.Minute {
		return last, nil
	}
	for marker := 0; ; {
		var page minio.ListObjectPartsResult
		err := b.try(ctx, "list the parts of", u.Key, func(ctx context.Context) (err error) {
			page, err = b.core.ListObjectParts(ctx, b.bucket, u.Key, u.UploadID, marker, pageSize)
			return err
		})
		if isCode(err, minio.NoSuchUpload) {
			return last, nil // it has ended since
		}
		if err != nil {
			return last, err
		}
		for _, p := range page.ObjectParts {
			if p.LastModified.After(last) {
				last = p.LastModified
			}
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= marker {
			return last, nil
		}
		marker = page.NextPartNumberMarker
	}
}

// warn logs what failed but is nobody's error: it will be cleared up by age.
func (b *Blobs) warn(ctx context.Context, err error) {
	if err != nil {
		b.log.WarnContext(ctx, "cannot clear up in the bucket; it will be done later", "error", err)
	}
}
