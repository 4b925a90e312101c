package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// enough is what a connection has to bring to count as progress, so that a blob
// of any size may break any number of times but not for ever.
const enough = 1 << 20

// Fetch opens a manifest or a blob from an offset on. The reader yields desc.Size
// less offset bytes, takes up a blob that breaks off, and fails if the server has
// more or less. It does not verify the digest. ref may name this repository or be
// empty.
func (r *Repo) Fetch(ctx context.Context, ref string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if _, _, err := r.target(ref); err != nil {
		return nil, err
	}
	if desc.Size < 0 || offset < 0 || offset > desc.Size {
		return nil, runner.Errorf(runner.ErrInvalid, "%s cannot be read from byte %d of %d on", desc.Digest, offset, desc.Size)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%q: %w", desc.Digest, err)
	}
	manifest := slices.Contains(manifestTypes, desc.MediaType)
	if manifest && desc.Size > maxManifest {
		return nil, runner.Errorf(runner.ErrInvalid, "manifest %s has %d bytes, more than the %d allowed", desc.Digest, desc.Size, maxManifest)
	}
	b := &blob{
		size: desc.Size, pos: offset, mark: offset,
		open: func(off int64) (io.ReadCloser, error) { return r.open(ctx, desc, manifest, off) },
		wait: func(n int, err error) error { return wait(ctx, n, err) },
	}
	body, err := b.open(offset)
	if err != nil {
		return nil, classify(err)
	}
	b.body = body
	return b, nil
}

// open asks the server that had the manifest, then those after it.
func (r *Repo) open(ctx context.Context, desc ocispec.Descriptor, manifest bool, off int64) (io.ReadCloser, error) {
	for _, s := range r.sessions[r.found.Load():] {
		body, err := s.open(ctx, r.path, desc, manifest, off)
		if err == nil || !s.mirror || ctx.Err() != nil {
			return body, err
		}
		r.c.log.WarnContext(ctx, "a mirror fails", "mirror", s.host, "digest", desc.Digest, "error", err)
	}
	return nil, errors.New("no registry") // not reached: the last is no mirror
}

func (s *session) open(ctx context.Context, path string, desc ocispec.Descriptor, manifest bool, off int64) (io.ReadCloser, error) {
	q := s.manifest(http.MethodGet, path, desc.Digest.String())
	if !manifest {
		q.path = "v2/" + s.prefix + path + "/blobs/" + desc.Digest.String()
		q.header = http.Header{}
	}
	if off > 0 {
		if off == desc.Size {
			return io.NopCloser(strings.NewReader("")), nil
		}
		q.header["Range"] = []string{fmt.Sprintf("bytes=%d-", off)}
		q.ok = []int{http.StatusOK, http.StatusPartialContent}
	}
	resp, err := s.retry(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := positioned(resp, desc, off); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// positioned makes a response begin at off, and fails if it does not end at the
// end of the content.
func positioned(resp *http.Response, desc ocispec.Descriptor, off int64) error {
	start := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		start = off
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, "bytes "+strconv.FormatInt(off, 10)+"-") {
			return fmt.Errorf("the registry has sent the range %q of %s when asked for the bytes from %d on", printable(got), desc.Digest, off)
		}
	}
	if n := resp.ContentLength; n >= 0 && n != desc.Size-start {
		return sizeError(fmt.Sprintf("the registry has %d bytes of %s, which should be %d", start+n, desc.Digest, desc.Size))
	}
	_, err := io.CopyN(io.Discard, resp.Body, off-start) // of a registry that knows no ranges
	return err
}

// sizeError is content that has not the size that its descriptor says.
type sizeError string

func (e sizeError) Error() string { return string(e) }

// blob reads content through one response after another.
type blob struct {
	open func(off int64) (io.ReadCloser, error)
	wait func(n int, err error) error
	size int64

	body   io.ReadCloser // nil if it broke off
	pos    int64
	failed int   // how often since mark
	mark   int64 // where enough progress was made
	err    error // for good
}

// Read reads on, and tries again where that helps.
func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	for b.pos < b.size {
		n, err := b.read(p)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if b.err = b.recover(err); b.err != nil {
			return 0, b.err
		}
	}
	b.err = b.end()
	return 0, b.err
}

func (b *blob) read(p []byte) (int, error) {
	if b.body == nil {
		body, err := b.open(b.pos)
		if err != nil {
			return 0, err
		}
		b.body = body
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.size-b.pos)])
	b.pos += int64(n)
	if b.pos-b.mark >= enough {
		b.mark, b.failed = b.pos, 0
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// recover makes ready for another attempt, or returns why there is none.
func (b *blob) recover(err error) error {
	restarts := b.pos > 0 && unreachable(err)
	switch {
	case b.body != nil:
		b.body.Close()
		b.body = nil
	case !restarts && !passing(err):
		return classify(err) // it cannot be opened
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if b.failed++; b.failed >= maxAttempts {
		return classify(err)
	}
	return b.wait(b.failed, err)
}

// end makes sure that the server has no more.
func (b *blob) end() error {
	if b.body == nil {
		return io.EOF
	}
	var one [1]byte
	for {
		n, err := b.body.Read(one[:])
		switch {
		case n > 0:
			return sizeError("the registry sends more bytes than the descriptor says")
		case err != nil:
			return io.EOF // all that was asked for is there
		}
	}
}

// Close ends the transfer.
func (b *blob) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

var errClosed = errors.New("the transfer was closed")
