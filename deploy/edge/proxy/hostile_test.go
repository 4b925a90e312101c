package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sayRaw sends bytes, and returns the status and the body of the first answer, and what
// follows it.
func sayRaw(t *testing.T, text string) (status int, body, rest string) {
	t.Helper()
	open(t)
	c, err := net.Dial("tcp", front.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	read, _ := io.ReadAll(resp.Body)
	after, _ := io.ReadAll(r)
	return resp.StatusCode, string(read), string(after)
}

// TestFraming: what two programs could take for different requests is refused, or is one
// request for the replica too.
func TestFraming(t *testing.T) {
	t.Parallel()
	const host = "framing.test"
	set(t, "stack/framing", routeTo(host, newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q", r.Method, r.RequestURI, r.Host, body)
	})))
	const head = "Host: " + host + "\r\nConnection: close\r\n"
	for text, want := range map[string]string{
		"POST / HTTP/1.1\r\n" + head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n" + head + "\r\n": `200 POST / framing.test ""`,
		"POST / HTTP/1.1\r\n" + head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!":                                                "400",
		"POST / HTTP/1.1\r\n" + head + "Content-Length: +5\r\n\r\nhello":                                                                     "400",
		"POST / HTTP/1.1\r\n" + head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n":                                                        "400",
		"POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n":                                                        "501",
		"POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n":                          "501",
		"POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n":                                          "400 400 Bad Request: the body of the request cannot be read",
		"GET / HTTP/1.1\r\n" + head + "Host: other.test\r\n\r\n":                                                                             "400",
		"GET / HTTP/1.1\r\nConnection: close\r\n\r\n":                                                                                        "400",
		"GET / HTTP/1.1\r\n" + head + "A B: c\r\n\r\n":                                                                                       "400",
		"GET / HTTP/1.1\r\nHost: fram ing.test\r\nConnection: close\r\n\r\n":                                                                 "400",
		"GET http://framing.test/a HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n":                                                `200 GET /a framing.test ""`,
		"GET /a/../b//%2e%2e/c HTTP/1.1\r\n" + head + "\r\n":                                                                                 `200 GET /a/../b//%2e%2e/c framing.test ""`,
		"GET * HTTP/1.1\r\n" + head + "\r\n":                                                                                                 "400 400 Bad Request: the request has no path",
		"CONNECT framing.test:443 HTTP/1.1\r\n" + head + "\r\n":                                                                              "405 405 Method Not Allowed: this is no proxy to elsewhere",
		"GET / HTTP/1.0\r\n\r\n": "404 404 Not Found: nothing is served here under this name",
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			status, body, rest := sayRaw(t, text)
			if got := fmt.Sprint(status, " ", body); !strings.HasPrefix(got, want) || strings.Contains(rest, "HTTP/1.1 ") {
				t.Errorf("%q: %q, then %q", text, got, rest)
			}
		})
	}
}

// TestSpoofed: a client cannot say where it comes from, nor take away what is said.
func TestSpoofed(t *testing.T) {
	t.Parallel()
	const host = "spoofed.test"
	r := routeTo(host, newBackend(t, "b").upstream(1))
	r.Paths, r.StripTo = []string{"/app"}, true
	set(t, "stack/spoofed", r)
	_, got, _ := sayRaw(t, "GET /app/headers HTTP/1.1\r\nHost: "+host+"\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.7\r\n"+
		"X_Forwarded_For: 192.0.2.7\r\nX-Forwarded-Port: 1927\r\nX-Forwarded-Ssl: on\r\nX-Forwarded-Prefix: /192\r\nX-Mine: 1\r\n"+
		"Connection: close, X-Real-Ip, x-forwarded-for, X-Forwarded-Prefix, X-Mine\r\n\r\n")
	for _, line := range []string{"X-Real-Ip: 127.0.0.1\r\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n", "X-Forwarded-Prefix: /app\r\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("not there: %s", line)
		}
	}
	for _, text := range []string{"192", "\nForwarded", "Ssl", "X-Mine"} {
		if strings.Contains(got, text) {
			t.Errorf("there: %s", text)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}
