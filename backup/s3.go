package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/berth-registry/berth/storage"
)

// S3Config says where a bucket is, and how to get at it.
type S3Config struct {
	Endpoint     string // https://HOST[:PORT], http://HOST[:PORT]; empty for Amazon's
	Region       string // empty to ask the server
	AccessKey    string
	SecretKey    string
	SessionToken string // or empty
}

const (
	// partSize is how large the parts are that something large is sent in, bytes:
	// as much memory as each job needs. What is smaller is sent at once.
	partSize = 16 << 20
	// maxParts is how many there may be, by the API of S3; the parts of something
	// very large are larger.
	maxParts = 10_000

	amazon = "https://s3.amazonaws.com"
)

// S3 is a bucket, or what is below a prefix in it.
type S3 struct {
	core   *minio.Core
	bucket string
	prefix string // empty, or ends in "/"
}

var _ Target = (*S3)(nil)

// OpenS3 opens s3://BUCKET[/PREFIX]. The bucket must be there.
func OpenS3(ctx context.Context, name string, c S3Config) (*S3, error) {
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(name, "s3://"), "/")
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = amazon
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("the endpoint of S3: want https://HOST[:PORT] or http://HOST[:PORT]")
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken),
		Secure: u.Scheme == "https", Region: c.Region,
	})
	if err != nil {
		return nil, fmt.Errorf("the endpoint of S3: %w", err)
	}
	t := &S3{core: core, bucket: bucket, prefix: prefix}
	found, err := core.BucketExists(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s at %s: %w", name, u.Host, classifyS3(err))
	}
	if !found {
		return nil, fmt.Errorf("there is no bucket %s at %s: %w", bucket, u.Host, storage.ErrNotFound)
	}
	return t, nil
}

// Close implements Target.
func (t *S3) Close() error { return nil }

// Put implements Target.
func (t *S3) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	o := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: partSize}
	if size > partSize {
		o.PartSize = uint64(max(partSize, size/maxParts+1))
		_, err := t.core.Client.PutObject(ctx, t.bucket, t.prefix+name, plain{r}, size, o)
		return classifyS3(err)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	_, err := t.core.Client.PutObject(ctx, t.bucket, t.prefix+name, bytes.NewReader(data), size, o)
	return classifyS3(err)
}

// plain is a reader, and nothing else that it may be.
type plain struct{ io.Reader }

// Open implements Target.
func (t *S3) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	body, _, _, err := t.core.GetObject(ctx, t.bucket, t.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, classifyS3(err)
	}
	return body, nil
}

// List implements Target.
func (t *S3) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for o := range t.core.ListObjectsIter(ctx, t.bucket, minio.ListObjectsOptions{Prefix: t.prefix + prefix, Recursive: true}) {
			if o.Err != nil {
				yield(Object{}, classifyS3(o.Err))
				return
			}
			if strings.HasSuffix(o.Key, "/") {
				continue // some programs make objects that stand for directories
			}
			if !yield(Object{Name: strings.TrimPrefix(o.Key, t.prefix), Size: o.Size}, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(Object{}, ctx.Err())
		}
	}
}

// Remove implements Target.
func (t *S3) Remove(ctx context.Context, name string) error {
	return classifyS3(t.core.RemoveObject(ctx, t.bucket, t.prefix+name, minio.RemoveObjectOptions{}))
}

// classifyS3 wraps an error of the server in the one of package storage that says the
// same, if there is one.
func classifyS3(err error) error {
	if err == nil {
		return nil
	}
	response := minio.ErrorResponse{}
	if !errors.As(err, &response) {
		return err
	}
	switch {
	case response.Code == minio.NoSuchKey, response.Code == minio.NoSuchBucket, response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case response.Code == "XMinioStorageFull", response.Code == "QuotaExceeded", response.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return err
}
