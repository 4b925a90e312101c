package remote

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

const blobType = "application/octet-stream"

// Blob opens a blob. Reading it from start to end is one request; after a Seek
// the next Read makes another. The reader fails at the blob's end with
// ErrDigestInvalid if what it read from its start is not d; what was only
// reached by seeking past other bytes is not verified. A Read that failed as the
// connection did can be tried again: it goes on where the last one was.
func (c *Client) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	b, err := c.blob(ctx, repo, d)
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	b.hash = d.Algorithm().Hash()
	return b, b.desc, nil
}

// OpenBlob is Blob for whoever verifies what it reads: the reader does not.
func (c *Client) OpenBlob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	b, err := c.blob(ctx, repo, d)
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	return b, b.desc, nil
}

func (c *Client) blob(ctx context.Context, repo string, d digest.Digest) (*blobReader, error) {
	resp, err := c.openBlob(ctx, repo, d, 0)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength < 0 {
		resp.Body.Close()
		return nil, fmt.Errorf("registry %s does not say how large blob %s is", c.base.Host, d)
	}
	desc := registry.Descriptor{MediaType: blobType, Digest: d, Size: resp.ContentLength}
	open := func(off int64) (io.ReadCloser, error) {
		resp, err := c.openBlob(ctx, repo, d, off)
		if err != nil {
			return nil, err
		}
		return resp.Body, nil
	}
	return &blobReader{open: open, desc: desc, body: resp.Body}, nil
}

func (c *Client) openBlob(ctx context.Context, repo string, d digest.Digest, off int64) (*http.Response, error) {
	r := request{
		method: http.MethodGet, url: c.repoURL(repo, "blobs", string(d)), scopes: pulls(repo),
		missing: registry.ErrBlobUnknown, want: []int{http.StatusOK},
	}
	if off == 0 {
		return c.do(ctx, r)
	}
	r.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", off)}}
	r.want = append(r.want, http.StatusPartialContent)
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK { // the registry knows no ranges
		if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp, nil
	}
	if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, "bytes "+strconv.FormatInt(off, 10)+"-") {
		resp.Body.Close()
		return nil, fmt.Errorf("registry %s answered with range %q when asked for bytes from %d", c.base.Host, printable(got), off)
	}
	return resp, nil
}

// StatBlob describes a blob.
func (c *Client) StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error) {
	resp, err := c.do(ctx, request{
		method: http.MethodHead, url: c.repoURL(repo, "blobs", string(d)), scopes: pulls(repo),
		missing: registry.ErrBlobUnknown, want: []int{http.StatusOK},
	})
	if err != nil {
		return registry.Descriptor{}, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return registry.Descriptor{}, fmt.Errorf("registry %s does not say how large blob %s is", c.base.Host, d)
	}
	return registry.Descriptor{MediaType: blobType, Digest: d, Size: resp.ContentLength}, nil
}

// DeleteBlob removes a blob.
func (c *Client) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	return c.delete(ctx, repo, "blobs", string(d), registry.ErrBlobUnknown)
}

func (c *Client) delete(ctx context.Context, repo, kind, name string, missing *registry.Error) error {
	resp, err := c.do(ctx, request{
		method: http.MethodDelete, url: c.repoURL(repo, kind, name), scopes: deletes(repo), missing: missing,
		want: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	if err != nil {
		return err
	}
	return drain(resp)
}

// blobReader reads a blob through one response after another.
type blobReader struct {
	open func(off int64) (io.ReadCloser, error)
	desc registry.Descriptor
	body io.ReadCloser // at at; nil if there is none
	at   int64
	pos  int64     // where the next Read begins
	hash hash.Hash // nil: nothing is verified
	// hashed is how many bytes from the start were hashed.
	hashed int64
	err    error // of the content, for good
}

// Read reads on, and verifies at the end.
func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.pos >= b.desc.Size {
		return 0, b.verify()
	}
	if err := b.align(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.desc.Size-b.pos)])
	if from := b.hashed - b.pos; b.hash != nil && from >= 0 && from < int64(n) {
		b.hash.Write(p[from:n])
		b.hashed += int64(n) - from
	}
	b.pos += int64(n)
	b.at = b.pos
	switch {
	case errors.Is(err, io.EOF) && b.pos < b.desc.Size:
		b.close()
		return n, io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return n, b.verify()
	case err != nil:
		b.close()
	}
	return n, err
}

// align makes the next byte of body the one at pos.
func (b *blobReader) align() error {
	if b.body != nil && b.at == b.pos {
		return nil
	}
	b.close()
	body, err := b.open(b.pos)
	if err != nil {
		return err
	}
	b.body, b.at = body, b.pos
	if b.pos == 0 && b.hash != nil {
		b.hash.Reset()
		b.hashed = 0
	}
	return nil
}

// verify is what the end of the blob returns.
func (b *blobReader) verify() error {
	if b.hash == nil || b.hashed < b.desc.Size {
		return io.EOF // not all of it was read
	}
	if got := digest.NewDigest(b.desc.Digest.Algorithm(), b.hash); got != b.desc.Digest {
		b.err = registry.ErrDigestInvalid.With("the registry sent %s for blob %s", got, b.desc.Digest)
		return b.err
	}
	return io.EOF
}

// Seek only notes where the next Read begins.
func (b *blobReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		offset += b.desc.Size
	}
	if offset < 0 {
		return b.pos, errors.New("seek before the start of the blob")
	}
	b.pos = offset
	return offset, nil
}

func (b *blobReader) close() error {
	if b.body == nil {
		return nil
	}
	body := b.body
	b.body = nil
	return body.Close()
}

// Close ends the transfer.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	return b.close()
}

var errClosed = errors.New("the blob was closed")
