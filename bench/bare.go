package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fixedAnswer is what the bare handler returns to everything.
type fixedAnswer struct {
	Header http.Header
	Body   []byte
}

// startBare starts a process with a bare handler that gives the answer that c gets
// from url.
func (b *bench) startBare(ctx context.Context, c *http.Client, url string) (*server, error) {
	a, err := fetch(ctx, c, url)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	s := &server{name: nameBare, addr: addr, dir: filepath.Join(b.dir, "bare")}
	path, err := s.configure(string(text))
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.start(ctx, s, "/", self, helperServeAnswer, addr, path)
}

// fetch returns what is answered to a URL, a manifest where it is one's.
func fetch(ctx context.Context, c *http.Client, url string) (fixedAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fixedAnswer{}, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	resp, err := c.Do(req)
	if err != nil {
		return fixedAnswer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fixedAnswer{}, fmt.Errorf("%s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Header.Del("Date") // net/http sets it
	return fixedAnswer{resp.Header, body}, err
}

// serveAnswer is a helper: it listens at an address and returns the answer that a
// file holds.
func serveAnswer(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%w: want an address and a file", errUsage)
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var a fixedAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	srv := &http.Server{Addr: args[0], Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), a.Header)
		if r.Method != http.MethodHead {
			_, _ = w.Write(a.Body) // the client notices
		}
	})}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })() // its listener's error says nothing
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
