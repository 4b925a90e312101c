package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api"
)

// dialWS attaches to the container by WebSocket.
func dialWS(t *testing.T, socket, path string) *websocket.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := websocket.NewConfig("ws://docker"+path, "http://elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(c, conn)
	if err != nil {
		t.Fatal(err)
	}
	// Sooner than the engine closes the connection of a client that was told the end
	// and does not: without a frame that tells it, there is none yet.
	if err := ws.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return ws
}

// upper answers what it reads in capitals until there is an exclamation mark.
func upper(_ context.Context, s runner.Streams) int {
	p := make([]byte, 100)
	for {
		n, err := s.Stdin.Read(p)
		if err != nil {
			return 1
		}
		fmt.Fprint(s.Stdout, strings.ToUpper(string(p[:n])))
		if p[n-1] == '!' {
			fmt.Fprint(s.Stderr, "bye")
			return 0
		}
	}
}

const wsAll = "/attach/ws?stdin=1&stdout=1&stderr=1&stream=1"

func TestWebSocket(t *testing.T) {
	for _, tty := range []bool{false, true} {
		socket, _ := serve(t, attached(upper, tty))
		ws := dialWS(t, socket, "/v1.45/containers/box"+wsAll)
		var got []byte
		say(t, ws, "one ")
		if err := websocket.Message.Receive(ws, &got); err != nil || string(got) != "ONE " {
			t.Fatalf("%q, %v", got, err)
		}
		say(t, ws, "two!")
		// Nothing that was written is lost when the process ends, and the end is told.
		rest, err := io.ReadAll(ws)
		if string(rest) != "TWO!bye" || err != nil {
			t.Fatalf("tty %v: %q, %v", tty, rest, err)
		}
	}
}

// TestWebSocketFrames checks of what type frames are: of old, text.
func TestWebSocketFrames(t *testing.T) {
	for v, want := range map[string]byte{"1.27": websocket.TextFrame, "1.28": websocket.BinaryFrame} {
		socket, _ := serve(t, attached(upper, false))
		ws := dialWS(t, socket, "/v"+v+"/containers/box"+wsAll)
		say(t, ws, "x!")
		var got byte
		payload := func(_ []byte, of byte, _ any) error { got = of; return nil }
		if err := (websocket.Codec{Unmarshal: payload}).Receive(ws, nil); err != nil || got != want {
			t.Errorf("%s: type %d, %v, want %d", v, got, err, want)
		}
	}
}

// TestWebSocketClosed checks that a client that closes ends the process's input,
// and is answered before the process ends.
func TestWebSocketClosed(t *testing.T) {
	input, end := make(chan error, 1), make(chan struct{})
	socket, _ := serve(t, attached(func(_ context.Context, s runner.Streams) int {
		_, err := io.Copy(io.Discard, s.Stdin)
		input <- err
		<-end
		return 0
	}, false))
	defer close(end)
	ws := dialWS(t, socket, "/containers/box"+wsAll)
	closing := func(any) ([]byte, byte, error) { return []byte{3, 232}, websocket.CloseFrame, nil }
	if err := (websocket.Codec{Marshal: closing}).Send(ws, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-input; err != nil {
		t.Errorf("the process reads %v, not the end", err)
	}
	if n, err := ws.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client hears %d bytes, %v, not that it is closed", n, err)
	}
}

// TestWebSocketGone checks that the process hears of a client whose connection is
// gone, in the middle of a frame too.
func TestWebSocketGone(t *testing.T) {
	for _, last := range []string{"", "\x82", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask and a little"} {
		ended := make(chan struct{})
		socket, _ := serve(t, attached(func(ctx context.Context, s runner.Streams) int {
			go func() { _, _ = io.Copy(io.Discard, s.Stdin) }()
			<-ctx.Done()
			close(ended)
			return 0
		}, false))
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		say(t, conn, "GET /containers/box"+wsAll+" HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"+last)
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatalf("after %q the process was not told", last)
		}
	}
}

// TestNoWebSocket checks that what is no handshake is refused, and a container that
// is not there by an answer of HTTP.
func TestNoWebSocket(t *testing.T) {
	socket, _ := serve(t, attached(upper, false))
	for path, want := range map[string]int{"/containers/box" + wsAll: 400, "/containers/other" + wsAll: 404, "/containers/box" + wsAll + "&detachKeys=no": 400} {
		resp := request(t, socket, "GET", path, "")
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// TestWebSocketOfOthers checks that pages of other sites are refused where a browser
// could have a certificate.
func TestWebSocketOfOthers(t *testing.T) {
	s := httptest.NewUnstartedServer(api.New(attached(upper, false), api.Options{}))
	s.StartTLS()
	defer s.Close()
	host := s.Listener.Addr().String()
	for origin, ok := range map[string]bool{"https://" + host: true, "https://evil.example": false, "null": false, "https://evil.example/" + host: false} {
		c, err := websocket.NewConfig("wss://"+host+"/containers/box"+wsAll, "http://replaced")
		if err != nil {
			t.Fatal(err)
		}
		if c.Origin, err = url.Parse(origin); err != nil {
			t.Fatal(err)
		}
		c.TlsConfig = &tls.Config{InsecureSkipVerify: true}
		ws, err := c.DialContext(t.Context())
		if (err == nil) != ok {
			t.Errorf("%s: %v", origin, err)
		}
		if err == nil {
			ws.Close()
		}
	}
}
