package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api"
)

// TestTLS checks that a stream's input ends, and its output goes on, over TLS.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.New(attached(echo, false), api.Options{}), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
	}}
	api.Configure(s)
	go func() { _ = s.ServeTLS(l, "", "") }()
	defer s.Close()

	// A client that would rather speak HTTP/2 must not get it.
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say(t, conn, "POST /containers/box/attach?stdin=1&stdout=1&stderr=1&stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	say(t, conn, "late")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r); err != nil || out.String() != "out:early late" || errs.String() != "err:early late" {
		t.Fatalf("%q %q %v", out.String(), errs.String(), err)
	}
}

// TestNothingLeft checks that streams leave no file open.
func TestNothingLeft(t *testing.T) {
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	socket, _ := serve(t, attached(func(_ context.Context, s runner.Streams) int {
		say(t, s.Stdout, "x")
		return 0
	}, true))
	stream := func() {
		h := hijack(t, socket, "/containers/box/attach?stdout=1&stream=1", "", "", true)
		if got, err := io.ReadAll(h.r); string(got) != "x" || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		h.Close()
	}
	stream()
	before := open()
	for range 100 {
		stream()
	}
	for end := time.Now().Add(10 * time.Second); open() > before+2; {
		if time.Now().After(end) {
			t.Fatalf("%d files are open, %d were", open(), before)
		}
	}
}

func BenchmarkList(b *testing.B) {
	e := newEngine()
	list := make([]container.Summary, 1000)
	for i := range list {
		list[i] = container.Summary{
			ID: theID, Names: []string{fmt.Sprintf("/box%d", i)}, Image: "busybox", Command: "sleep 1000", State: "running", Status: "Up 3 minutes",
			Labels: map[string]string{"a": "b", "c": "d"},
		}
	}
	e.list = func(runner.ListOptions) ([]container.Summary, error) { return list, nil }
	h := api.New(e, api.Options{})
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "/v1.50/containers/json", http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.ServeHTTP(&discard{header: http.Header{}}, req)
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}
