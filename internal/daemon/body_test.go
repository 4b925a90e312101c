package daemon_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/daemon"
)

// A client that announces a body and sends none of it has its answer all the same,
// and is rid of.
func TestBodyThatDoesNotCome(t *testing.T) {
	t.Parallel()
	patience := 200 * time.Millisecond
	read := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
		}
	})
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	for name, h := range map[string]http.Handler{"401": refuse, "408": read} {
		server := httptest.NewServer(daemon.Bodies(h, patience))
		defer server.Close()
		for _, framing := range []string{"Content-Length: 1000\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"} {
			c := dial(t, server)
			send(t, c, "POST / HTTP/1.1\r\nHost: x\r\n"+framing)
			answer, err := io.ReadAll(c) // until the server closes
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+name) {
				t.Errorf("%s, %q: %q, %v", name, framing, answer, err)
			}
		}
	}
}

// A refusal does not wait for a body that is too long to be read, or that the client
// has not begun to send.
func TestBodyThatIsRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(daemon.Bodies(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}), time.Hour))
	defer server.Close()
	for _, header := range []string{"Content-Length: 1000000000\r\n\r\n", "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"} {
		c := dial(t, server)
		send(t, c, "POST / HTTP/1.1\r\nHost: x\r\n"+header)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%q: %v", header, err)
			_ = c.Close()
			continue
		}
		_ = resp.Body.Close()
		_ = c.Close() // or the server waits for the rest
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%q: status %d", header, resp.StatusCode)
		}
	}
}

// The time is for the body: neither a handler that takes longer, nor the next
// request of the connection, has to do with it.
func TestBodyThatComes(t *testing.T) {
	t.Parallel()
	patience := 100 * time.Millisecond
	server := httptest.NewServer(daemon.Bodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
			t.Error("the request was given up")
		case <-time.After(3 * patience):
		}
		w.WriteHeader(http.StatusNoContent)
	}), patience))
	defer server.Close()
	c := dial(t, server)
	answers := bufio.NewReader(c)
	for range 2 {
		send(t, c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}

func dial(t *testing.T, server *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}
