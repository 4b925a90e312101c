package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// quiet is longer than a client may stall.
const quiet = 3 * testStall / 2

// newServer is a replica that does what a test needs.
func newServer(t *testing.T, h http.HandlerFunc) upstream {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return (&backend{Server: s, id: t.Name()}).upstream(1)
}

// TestQuiet: a replica may be quiet for as long as it likes, within a stream and before
// its end, and before it answers.
func TestQuiet(t *testing.T) {
	t.Parallel()
	up := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/events" {
			fmt.Fprint(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(quiet)
			fmt.Fprint(w, "data: 2\n\n")
			_ = http.NewResponseController(w).Flush()
		}
		time.Sleep(quiet)
	})
	plain, internal := routeTo("quiet.test", up), routeTo("tls.quiet.test", up)
	internal.TLS = "internal"
	set(t, "stack/quiet", plain, internal)
	for base, c := range map[string]*http.Client{"http://quiet.test": client(t, true), "https://tls.quiet.test": secureClient(t)} {
		for path, want := range map[string]string{"/events": "data: 1\n\ndata: 2\n\n", "/slow": ""} {
			t.Run(base+path, func(t *testing.T) {
				t.Parallel()
				resp, err := c.Post(base+path, "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); string(got) != want || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
	}
	t.Run("socket", func(t *testing.T) {
		t.Parallel()
		set(t, "stack/quiet-socket", routeTo("socket.test", newBackend(t, "b").upstream(1)))
		c, lines := dialSocket(t, "socket.test")
		time.Sleep(quiet)
		fmt.Fprintln(c, "hello")
		if line, err := lines.ReadString('\n'); line != "b hello\n" || err != nil {
			t.Errorf("%q, %v", line, err)
		}
	})
}

// TestGRPC makes a call of gRPC in both directions at once, with trailers, over TLS and
// without. The client is quiet for longer than others may be.
func TestGRPC(t *testing.T) {
	t.Parallel()
	up := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			t.Errorf("%s, TE: %s", r.Proto, r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Trailer", "Grpc-Status")
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			fmt.Fprintln(w, in.Text())
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	})
	plain, internal := routeTo("grpc.test", up), routeTo("tls.grpc.test", up)
	internal.TLS = "internal"
	set(t, "stack/grpc", plain, internal)
	h2c := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", front.http)
	}}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2c.CloseIdleConnections)
	for url, c := range map[string]*http.Client{"http://grpc.test/s/m": {Transport: h2c}, "https://tls.grpc.test/s/m": secureClient(t)} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			r, w := io.Pipe()
			req, err := http.NewRequest(http.MethodPost, url, r)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/grpc+proto")
			req.Header.Set("Te", "trailers")
			go fmt.Fprintln(w, 0)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			out := bufio.NewScanner(resp.Body)
			for i := range 3 {
				if !out.Scan() || out.Text() != fmt.Sprint(i) {
					t.Fatalf("message %d: %q, %v", i, out.Text(), out.Err())
				}
				if i == 1 {
					time.Sleep(quiet)
				}
				fmt.Fprintln(w, i+1)
			}
			_ = w.Close()
			for out.Scan() {
			}
			if status := resp.Trailer.Get("Grpc-Status"); status != "0" || out.Err() != nil {
				t.Errorf("trailers %v, %v", resp.Trailer, out.Err())
			}
		})
	}
}
