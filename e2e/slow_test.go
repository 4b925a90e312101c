package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// raw sends bytes on a connection of its own, ends it in that direction, and
// returns the first answer, or nil if there is none before the connection is
// closed.
func (h *hostile) raw(t *testing.T, request string) *answer {
	t.Helper()
	c := h.dial(t)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(c, request) // the server may have heard enough
	_ = c.CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%.100q: no answer, and the connection is open", request)
	}
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body) // it may be cut short
	a := &answer{res.StatusCode, res.Header, body}
	if res.Close {
		a.header.Set("Connection", "close")
	}
	return a
}

func (h *hostile) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", h.server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// TestHugeHeaders sends more header than anybody needs.
func TestHugeHeaders(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	for name, header := range map[string]string{
		"one long header":     "X-Long: " + strings.Repeat("a", 4<<20) + "\r\n",
		"many headers":        strings.Repeat("X-Many: a\r\n", 200_000),
		"header without end":  strings.Repeat("a", 4<<20),
		"name of strange":     "X\x00Y: a\r\n",
		"value of strange":    "X-Y: a\x00b\r\n",
		"no host":             "Host: \x01\r\n",
		"100,000 in a list":   "Accept: " + strings.Repeat("a/b,", 10_000) + "\r\n",
		"folded":              "X-Y: a\r\n b\r\n",
		"response in request": "X-Request-Id: a\rSet-Cookie: b\r\n",
	} {
		a := h.raw(t, "GET /v2/none/manifests/x HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
		if a != nil && (a.status < 400 || a.status > 499) {
			t.Errorf("%s: %s: want a 4xx", name, *a)
		}
	}
	for _, garbage := range []string{
		"", "\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"GET /v2/ HTTP/1.1\r\n\r\n", strings.Repeat("\x00", 1<<20), "SSH-2.0-OpenSSH_9.2\r\n", "GET http://[::1/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		if a := h.raw(t, garbage); a != nil && a.status >= 500 && a.status != http.StatusHTTPVersionNotSupported {
			t.Errorf("%.40q: %s", garbage, *a)
		}
	}
	h.unharmed(t)
}

const (
	slowTimeout = time.Second
	slowClients = 100
)

// TestSlowClients lets clients dribble: headers, bodies, nothing at all. Each is
// given up in time, and meanwhile others are served.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	h := startHostile(t, "BERTH_HTTP_HEADER_TIMEOUT="+slowTimeout.String(), "BERTH_HTTP_BODY_TIMEOUT="+slowTimeout.String())
	location := must(h.wire.startUpload("slow"))(t)
	starts := map[string]string{
		"nothing": "",
		"header":  "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"POST":    "POST /v2/slow/blobs/uploads/?digest=" + someDigest + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"PATCH":   "PATCH " + location + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT":     "PUT /v2/slow/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drip := "a"
			switch name {
			case "nothing":
				drip = ""
			case "PATCH":
				drip = "1\r\na\r\n"
			}
			h.dribble(t, start, drip)
		})
	}
	t.Run("reads nothing", func(t *testing.T) {
		t.Parallel()
		h.readNothing(t)
	})
	t.Cleanup(func() {
		if !t.Failed() {
			h.unharmed(t)
		}
	})
}

// dribble sends a start and then a drip now and then, on many connections, until
// the server closes each of them.
func (h *hostile) dribble(t *testing.T, start, drip string) {
	t.Helper()
	ended := make(chan error, slowClients)
	for range slowClients {
		c := h.dial(t)
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, start)
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_, _ = io.Copy(io.Discard, c) // an answer, perhaps, and then the end
			}()
			for limit := time.After(10 * slowTimeout); ; {
				select {
				case <-closed:
					ended <- nil
					return
				case <-limit:
					ended <- errors.New("the server waits for a slow client on and on")
					return
				case <-time.After(slowTimeout / 10):
					_, _ = io.WriteString(c, drip)
				}
			}
		}()
	}
	h.wire.serves(t, 1)
	for range slowClients {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// readNothing asks for a blob and reads no byte of it. What the kernel has taken
// from the server meanwhile can be read afterwards, but not all of the blob.
func (h *hostile) readNothing(t *testing.T) {
	t.Helper()
	const size = 64 << 20
	_, layer, err := h.wire.smallImage("slow/large", "x", 5, size)
	if err != nil {
		t.Fatal(err)
	}
	c := h.dial(t)
	defer c.Close()
	_, _ = fmt.Fprintf(c, "GET /v2/slow/large/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", layer)
	time.Sleep(4 * slowTimeout)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	n, err := io.Copy(io.Discard, c)
	if n >= size || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server has waited for a client that did not read for %v: it sent %d bytes: %v", 4*slowTimeout, n, err)
	}
}

// TestIdleConnections holds a thousand connections open, half of them after a
// request. Others are served, and the idle ones closed when their time is over.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	h := startHostile(t, "BERTH_HTTP_HEADER_TIMEOUT=5s", "BERTH_HTTP_IDLE_TIMEOUT=5s")
	var conns []*net.TCPConn
	for i := range 1000 {
		c := h.dial(t)
		defer c.Close()
		conns = append(conns, c)
		if i%2 == 0 {
			_, _ = io.WriteString(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	h.unharmed(t)
	deadline := time.Now().Add(30 * time.Second)
	for _, c := range conns {
		_ = c.SetReadDeadline(deadline)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("an idle connection is never closed")
		}
	}
	h.unharmed(t)
}

// must returns a value, or fails the test with the error beside it.
func must[V any](v V, err error) func(*testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
