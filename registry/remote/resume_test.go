package remote_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// TestResume: a reader whose connection breaks goes on when it is read again, and
// verifies all of what it has read.
func TestResume(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	d := digest.FromBytes(data)
	for name, wrong := range map[string]bool{"right": false, "wrong": true} {
		t.Run(name, func(t *testing.T) {
			sent := bytes.Clone(data)
			if wrong {
				sent[10] ^= 1
			}
			c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") != "" {
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(sent))
					return
				}
				w.Header().Set("Content-Length", "1000000")
				_, _ = w.Write(sent[:500_000])
				panic(http.ErrAbortHandler)
			}))
			for open, want := range map[string]error{"Blob": registry.ErrDigestInvalid, "OpenBlob": nil} {
				fn := c.Blob
				if open == "OpenBlob" {
					fn = c.OpenBlob
				}
				b, desc, err := fn(t.Context(), "app", d)
				if err != nil || desc.Size != 1_000_000 {
					t.Fatal(desc, err)
				}
				first, err := io.ReadAll(b)
				if err == nil {
					t.Fatalf("%s: it has not broken", open)
				}
				rest, err := io.ReadAll(b)
				if !wrong {
					want = nil
				}
				if !errors.Is(err, want) || want == nil && err != nil {
					t.Errorf("%s: %v, want %v", open, err, want)
				}
				if !bytes.Equal(append(first, rest...), sent) {
					t.Errorf("%s: %d and %d bytes", open, len(first), len(rest))
				}
				b.Close()
			}
		})
	}
}
