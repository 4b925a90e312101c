package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestScaleUpload uploads a blob of several of S3's parts in chunks, each to another
// server. One of them is killed in the middle of a chunk, and the client goes on with
// another where that says that the upload is.
func TestScaleUpload(t *testing.T) {
	t.Parallel()
	r := berthtest.StartReplicas(t, 3, berthtest.Options{Env: []string{noRedirect}})
	data := randomBytes(7, 40<<20)
	w := newWire(r.URL)
	location, err := w.startUpload("scaled/app")
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, next := range []int{3, 1 << 20, 12<<20 + 5, 13 << 20} { // within a part and beyond, to one server after the other
		if location, err = w.writeUpload(location, data, at, next); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	for killed := range 2 {
		at = killedUpload(t, r, killed, location, data, at)
	}
	if _, err = w.writeUpload(location, data, at, len(data)-9); err != nil {
		t.Fatal(err)
	}
	if err := w.commitUpload(location, data, len(data)-9); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r.Restart(i)
	}
	d := digest.FromBytes(data)
	for _, s := range r.Servers {
		a := must(newWire(s.URL).pullBlob("scaled/app", d))(t)
		if a.status != http.StatusOK || !bytes.Equal(a.body, data) {
			t.Errorf("the blob comes back with %d, %d bytes", a.status, len(a.body))
		}
	}
	objects, open := r.S3.Left()
	if len(open) > 0 {
		t.Errorf("multipart uploads are left: %q", open)
	}
	t.Logf("%d objects in S3", len(objects))
}

// killedUpload sends ten more MB to a server that is killed meanwhile, and returns where the
// others say that the upload is.
func killedUpload(t *testing.T, r *berthtest.Replicas, victim int, location string, data []byte, at int) int {
	t.Helper()
	body, sent := io.Pipe()
	ended := make(chan error, 1)
	dead := newWire(r.Servers[victim].URL)
	path := location
	go func() {
		_, err := dead.do("PATCH", path, body, "Content-Type", "application/octet-stream",
			"Content-Range", fmt.Sprintf("%d-%d", at, at+11<<20-1), "Content-Length", fmt.Sprint(11<<20))
		_ = body.CloseWithError(errors.New("the request has ended"))
		ended <- err
	}()
	if _, err := sent.Write(data[at : at+10<<20]); err != nil {
		t.Fatalf("a chunk that the server is receiving: %v", err)
	}
	r.Kill(victim)
	_ = sent.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-ended; err == nil {
		t.Fatal("the chunk was answered by a server that was killed in the middle of it")
	}

	w := newWire(r.URL)
	began := time.Now()
	a := must(w.must(http.StatusNoContent, "GET", location, nil))(t)
	now := must(rangeEnd(a))(t)
	if now < at || now > at+10<<20 {
		t.Fatalf("after the kill the upload is at %d: %d were acknowledged and %d sent", now, at, at+10<<20)
	}
	// Who holds an upload may be thought to be alive for a moment.
	waitFor(t, "resumption", func() bool {
		a = must(w.do("PATCH", location, bytes.NewReader(data[now:now+100]), "Content-Type", "application/octet-stream",
			"Content-Range", fmt.Sprintf("%d-%d", now, now+99)))(t)
		if a.status >= 400 {
			t.Logf("%v after the kill: %s", time.Since(began).Round(time.Millisecond), a)
		}
		return a.status == http.StatusAccepted
	})
	t.Logf("the upload went on %v after the kill, at %d of %d bytes that were sent", time.Since(began).Round(time.Millisecond), now, at+10<<20)
	return now + 100
}
