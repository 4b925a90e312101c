package mirroring

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/registry"
)

// burst is how many bytes at least come at once.
const burst = 64 << 10

// slowed gives the blobs of a source at up to so many bytes per second, all together;
// 0 is no limit.
func slowed(s Source, perSecond int64) Source {
	if perSecond <= 0 {
		return s
	}
	return &slowSource{s, rate.NewLimiter(rate.Limit(perSecond), max(burst, int(perSecond/10)))}
}

type slowSource struct {
	Source
	limit *rate.Limiter
}

// Blob opens a blob, slowly.
func (s *slowSource) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	r, desc, err := s.Source.Blob(ctx, repo, d)
	if err != nil {
		return nil, desc, err
	}
	return &slowReader{r, s.limit.Burst(), func(n int) error { return s.limit.WaitN(ctx, n) }}, desc, nil
}

type slowReader struct {
	io.ReadSeekCloser
	most int
	wait func(n int) error
}

// Read reads, and waits for as long as what it has read may take.
func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeekCloser.Read(p[:min(len(p), r.most)])
	if n > 0 {
		if werr := r.wait(n); werr != nil {
			return n, werr
		}
	}
	return n, err
}
