// Package s3 keeps blobs in a bucket of any server that speaks S3:
//
//	blobs/<algorithm>/<two digits>/<hash>        what is whole, an object each
//	uploads/<stage id>/<random>                  what a stage becomes, if its digest is not known
//	uploads/<stage id>/tail-<random>             the end of a stage, shorter than a part
//	notes/<name>.note                            notes
//	quarantine/<algorithm>/<hash>                what was a blob, and is damaged
//
// It promises what storage.Blobs does on a server that keeps what it has
// acknowledged and then shows it at once, as Amazon's does. Whoever has the bucket
// and the metadata can go on with a stage: what it consists of is in the metadata
// (storage.Stages). A blob is one PUT or one completed multipart upload, so that
// there never is half of one.
//
// A stage has one part in memory, which Berth sends when it is full. Every request
// is given up if no byte moves for some time, and tried again within limits.
//
// It does not list versions, set lifecycle rules or make the bucket. Where a server
// lists multipart uploads by their whole key only, as MinIO does, those that a killed
// process left without a row are for the server's own clean-up.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Options say where the bucket is, how to get at it, and how to use it.
type Options struct {
	// Endpoint is https://HOST[:PORT] or http://HOST[:PORT]; empty for Amazon's.
	Endpoint string
	// Bucket must be there.
	Bucket string
	// Prefix is what all keys start with, as a directory; it may be empty.
	Prefix string
	// Region is asked of the server if it is empty.
	Region string
	// AccessKey and SecretKey, and SessionToken if they are temporary. Without them
	// they are taken from the environment (AWS_ACCESS_KEY_ID and so on), the shared
	// file of credentials, or the machine's, task's or pod's identity, in this order.
	AccessKey, SecretKey, SessionToken string
	// PathStyle has the bucket in the path of URLs, VirtualHost in their host name.
	// Without both it is in the host name where the endpoint is known to take that.
	PathStyle, VirtualHost bool
	// CA is a file of certificates in PEM that are trusted besides the system's.
	CA string
	// Encryption is how the server encrypts what it stores: "AES256", "aws:kms", or
	// empty for what the bucket says. KMSKey is the id of the key for "aws:kms", empty
	// for the bucket's own.
	Encryption, KMSKey string
	// Redirect has Open's readers offer a URL from which a client gets the blob
	// without further rights for RedirectExpiry, by default 20 minutes, at most 7
	// days. RedirectEndpoint is the endpoint that clients reach, if it is another.
	Redirect         bool
	RedirectExpiry   time.Duration
	RedirectEndpoint string
	// PartSize is how large the first parts of a multipart upload are, in bytes, by
	// default 8 MiB, at least 5 MiB. A smaller blob is sent at once.
	PartSize int64
	// Timeout is how long a request may go without a byte, by default 30 seconds;
	// Retries how often it is tried again, by default 5; less than 0 for never.
	Timeout time.Duration
	Retries int
	// Temp is a directory for parts that are too large for memory, of blobs beyond 64
	// GiB; empty for the system's.
	Temp string
	// Meta keeps what stages consist of.
	Meta storage.Meta
	// Log receives what goes wrong without being somebody's error; nil for none.
	Log *slog.Logger
	// Now is the clock; nil for time.Now.
	Now func() time.Time

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil for TCP
}

const (
	defaultPart    = 8 << 20
	defaultTimeout = 30 * time.Second
	defaultRetries = 5
	defaultExpiry  = 20 * time.Minute
	maxExpiry      = 7 * 24 * time.Hour // S3's
)

// Blobs is a bucket of blobs, or what is below a prefix in it.
type Blobs struct {
	core     *minio.Core
	public   *minio.Core // at the endpoint for redirects; nil for none
	http     *http.Transport
	bucket   string
	prefix   string // empty, or ends in "/"
	sse      encrypt.ServerSide
	expiry   time.Duration
	partSize int64
	timeout  time.Duration
	retries  int
	pause    time.Duration // before the first of them, at most
	temp     string
	copyMost int64 // bytes that are copied in one request
	copyPart int64 // bytes of a part of what is copied in several
	meta     storage.Meta
	log      *slog.Logger
	now      func() time.Time
}

var (
	_ storage.Blobs        = (*Blobs)(nil)
	_ storage.DigestStager = (*Blobs)(nil)
	_ storage.Notes        = (*Blobs)(nil)
)

// Open connects to the bucket, which must be there and let itself be listed.
func Open(ctx context.Context, o Options) (*Blobs, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	b := &Blobs{
		bucket: o.Bucket, prefix: o.Prefix, expiry: o.RedirectExpiry, partSize: o.PartSize, timeout: o.Timeout, retries: o.Retries, pause: firstPause,
		temp: o.Temp, copyMost: 5 << 30, copyPart: 1 << 30, meta: o.Meta, log: o.Log, now: o.Now,
	}
	var err error
	if b.sse, err = o.encryption(); err != nil {
		return nil, err
	}
	if err := b.connect(ctx, o); err != nil {
		return nil, err
	}
	return b, nil
}

// complete checks options and fills in what is not set.
func (o *Options) complete() error {
	switch {
	case o.Bucket == "":
		return errors.New("S3: no bucket is named")
	case o.Meta == nil:
		return errors.New("S3: there is no metadata for stages")
	case (o.AccessKey == "") != (o.SecretKey == ""):
		return errors.New("S3: set both access key and secret key, or none of them")
	case o.PathStyle && o.VirtualHost:
		return errors.New("S3: path style and virtual host exclude each other")
	case o.PartSize != 0 && (o.PartSize < minPart || o.PartSize > maxFirstPart):
		return fmt.Errorf("S3: the part size must be between %d and %d bytes", minPart, maxFirstPart)
	case o.RedirectExpiry < 0 || o.RedirectExpiry > maxExpiry || o.RedirectExpiry > 0 && o.RedirectExpiry < time.Second:
		return fmt.Errorf("S3: a redirect must hold for between a second and %v", maxExpiry)
	case o.Timeout < 0:
		return errors.New("S3: the timeout is negative")
	}
	setDefault(&o.PartSize, defaultPart)
	setDefault(&o.Timeout, defaultTimeout)
	setDefault(&o.Retries, defaultRetries)
	setDefault(&o.RedirectExpiry, defaultExpiry)
	setDefault(&o.Endpoint, amazon)
	o.Retries = max(o.Retries, 0)
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		if path.Clean(o.Prefix) != o.Prefix || strings.HasPrefix(o.Prefix, "..") {
			return errors.New(`S3: the prefix has an empty component, "." or ".."`)
		}
		o.Prefix += "/"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Close lets go of connections that are not in use.
func (b *Blobs) Close() error {
	b.http.CloseIdleConnections()
	return nil
}

func (b *Blobs) key(d digest.Digest) string {
	hex := d.Encoded()
	return b.prefix + "blobs/" + string(d.Algorithm()) + "/" + hex[:2] + "/" + hex
}

// Size returns the size of a blob in bytes.
func (b *Blobs) Size(ctx context.Context, d digest.Digest) (int64, error) {
	o, err := b.head(ctx, b.key(d))
	return o.Size, err
}

// Delete removes a blob.
func (b *Blobs) Delete(ctx context.Context, d digest.Digest) error {
	key := b.key(d)
	if _, err := b.head(ctx, key); err != nil { // S3 does not say whether there was any
		return err
	}
	return b.remove(ctx, key)
}

// Quarantine copies a blob away, in the place of one that was moved there before,
// and removes it.
func (b *Blobs) Quarantine(ctx context.Context, d digest.Digest) error {
	key := b.key(d)
	o, err := b.head(ctx, key)
	if err != nil {
		return err
	}
	if err := b.copy(ctx, key, b.prefix+"quarantine/"+string(d.Algorithm())+"/"+d.Encoded(), o.Size); err != nil {
		return err
	}
	return b.remove(ctx, key)
}

// Open opens a blob. Its reader asks for what is behind the place that it is at, and
// asks again where it was cut off. With redirects it also has
//
//	RedirectURL(ctx context.Context) (string, error)
//
// which makes a URL of the blob.
func (b *Blobs) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	r := b.newReader(ctx, b.key(d))
	if b.public == nil {
		if err := r.first(); err != nil {
			return nil, err
		}
		return r, nil
	}
	o, err := b.head(ctx, r.key)
	if err != nil {
		return nil, err
	}
	r.size, r.etag, r.known = o.Size, o.ETag, true
	return &redirecting{r, b}, nil
}
