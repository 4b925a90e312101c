package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// pull measures how fast a great blob comes from registries, and from nginx
// serving the same file with sendfile. The clients read into a large buffer and
// do nothing with it.
func pull(ctx context.Context, b *bench) ([]*figure, error) {
	const repo = "pull/blob"
	servers, err := b.startRegistries(ctx)
	if err != nil {
		return nil, err
	}
	blob := random(b.blob, 1)
	d := digest.FromBytes(blob)
	targets := map[*server]string{}
	for _, s := range servers {
		_, err := together(ctx, s.addr, 1, func(_ int, c *conn) error { return c.pushBlob(s.addr, repo, d, pieces(blob)...) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		targets[s] = "/v2/" + repo + "/blobs/" + string(d)
	}
	nginx, err := b.startNginx(ctx, func(data string) error { return linkBlob(servers[0].data(), d, b.blob, filepath.Join(data, "blob")) })
	if err != nil {
		return nil, err
	}
	targets[nginx] = "/blob"

	servers = append([]*server{servers[0], nginx}, servers[1:]...)
	var figures []*figure
	for _, load := range b.pulls {
		f := &figure{Name: fmt.Sprintf("%s, %s", megabytes(b.blob), plural(load.clients, "client")), Unit: "MB/s"}
		var turns []turn
		for _, s := range servers {
			measure := func() (float64, error) { return b.pullLoad(ctx, s.addr, targets[s], load) }
			if _, err := b.pullLoad(ctx, s.addr, targets[s], pullLoad{1, 1}); err != nil { // warms up
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			turns = append(turns, turn{s.name, s, measure})
		}
		if err := b.interleave(ctx, f, turns...); err != nil {
			return nil, err
		}
		f.ratio(nameBerth, nameNginx, atLeast(0.95))
		compare(f, servers[2:])
		figures = append(figures, f)
	}
	return figures, nil
}

// pullLoad pulls target as load says and returns MB/s.
func (b *bench) pullLoad(ctx context.Context, addr, target string, load pullLoad) (float64, error) {
	get := request(http.MethodGet, addr, target)
	elapsed, err := together(ctx, addr, load.clients, func(_ int, c *conn) error {
		for range load.each {
			a, err := c.do(http.StatusOK, get)
			if err == nil && a.length != b.blob {
				err = fmt.Errorf("%d bytes, want %d", a.length, b.blob)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return float64(b.blob*int64(load.clients*load.each)) / mb / elapsed.Seconds(), err
}

// linkBlob makes at the path to the very file in which berth stores a blob, so
// that how it lies on disk and in the page cache makes no difference.
func linkBlob(data string, d digest.Digest, size int64, to string) error {
	found := errors.New("found")
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() != size {
			return err
		}
		if same, err := hasDigest(path, d); err != nil || !same {
			return err
		}
		if err := os.Link(path, to); err != nil {
			return err
		}
		return found
	})
	switch {
	case err == nil:
		return errors.New("berth stores no file with the bytes of the blob: it cannot be served with sendfile")
	case errors.Is(err, found):
		return nil
	}
	return err
}

func hasDigest(path string, d digest.Digest) (bool, error) {
	r, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	v := d.Verifier()
	_, err = io.Copy(v, r)
	return v.Verified(), err
}

// compare adds a ratio without a goal to each of the servers.
func compare(f *figure, servers []*server) {
	for _, s := range servers {
		f.ratio(nameBerth, s.name, bound{})
	}
}
