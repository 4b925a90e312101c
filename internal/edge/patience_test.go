package edge_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/berth-registry/berth/internal/edge"
)

// A client of HTTP/2 that takes nothing of an answer is given up, one that is slow
// is not, nor one whose handler is.
func TestPatience(t *testing.T) {
	t.Parallel()
	const patience = 300 * time.Millisecond
	f, gaveUp := newFiles(t), make(chan struct{}, 1)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, Patience: patience}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					gaveUp <- struct{}{}
					return
				}
			}
		case "/thinking":
			_, _ = io.WriteString(w, "one ")
			w.(http.Flusher).Flush()
			time.Sleep(3 * patience) // what a handler may do
			_, _ = io.WriteString(w, "two")
		default:
			_, _ = w.Write(make([]byte, 16<<20))
		}
	}))
	c := client(t, &tls.Config{RootCAs: f.ca.pool()}, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/endless"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	stalled, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Body.Close()
	if got, err := get(t.Context(), c, s.url("/thinking")); got != "one two" || err != nil {
		t.Errorf("a handler that thinks: %q, %v", got, err)
	}
	slow, err := c.Get(s.url("/slow"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	for i := range 8 { // longer than patience in all
		if _, err := io.CopyN(io.Discard, slow.Body, 2<<20); err != nil {
			t.Errorf("a slow client, after %d times 2 MiB: %v", i, err)
		}
		time.Sleep(patience / 4)
	}
	select {
	case <-gaveUp:
	case <-time.After(30 * time.Second):
		t.Error("a client that takes nothing has its handler still")
	}
}

// An answer that fits into the server's buffer is no way to hold a stream either.
func TestPatienceWithSmallAnswers(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, Patience: 300 * time.Millisecond}, http.HandlerFunc(tell))
	d := tls.Dialer{Config: &tls.Config{RootCAs: f.ca.pool(), NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}} {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	_, err = io.WriteString(conn, http2.ClientPreface)
	err = errors.Join(err, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}))
	if err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("before the stream is reset: %v", err)
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return
		case *http2.DataFrame:
			if len(frame.Data()) > 0 {
				t.Fatal("data without room for it")
			}
		}
	}
}
