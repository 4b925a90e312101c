package edge_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/berth-registry/berth/internal/edge"
)

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkUpload compares a large push by HTTP/1.1 and by HTTP/2, both over TLS.
func BenchmarkUpload(b *testing.B) {
	const size = 256 << 20
	f := newFiles(b)
	s := start(b, edge.Options{Cert: f.cert, Key: f.key}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprint(w, n)
	}))
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		b.Run(name, func(b *testing.B) {
			c := client(b, &tls.Config{RootCAs: f.ca.pool()}, http2)
			b.SetBytes(size)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.url("/"), io.LimitReader(zeros{}, size))
				if err != nil {
					b.Fatal(err)
				}
				req.ContentLength = size
				res, err := c.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || string(body) != fmt.Sprint(size) {
					b.Fatalf("%s, %v", body, err)
				}
			}
		})
	}
}
