package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

var (
	soak = flag.Duration("soak", 0, "how long TestKill, TestPowerCut, TestCollectKilled and TestScaleKilled go on; 0 is some rounds")
	seed = flag.Uint64("seed", rand.Uint64(), "of what they do")
)

const (
	killRounds = 30
	cutRounds  = 15
	pushers    = 8
)

// TestKill kills the server at random while clients push, starts it again, and
// checks that all that was acknowledged is there and that nothing is there by
// halves; again and again on the same data.
func TestKill(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Env: []string{"BERTH_LOG_ACCESS=false"}})
	c := newCrasher(t, s)
	c.loop(killRounds, func() {
		s.Kill()
		s.Restart()
	})
	c.leftovers()
}

// TestPowerCut takes the power away from under server and file system at random:
// what was acknowledged is on the disk, and not only on its way there.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 512)
	s := berthtest.Start(t, berthtest.Options{Data: filepath.Join(d.dir, "data"), Env: []string{"BERTH_LOG_ACCESS=false"}})
	c := newCrasher(t, s)
	c.failing = true
	c.loop(cutRounds, func() {
		d.cut()
		s.Kill()
		d.unmount()
		d.mount()
		s.Restart()
	})
}

// crasher runs clients against a server and ends it while they are at work.
type crasher struct {
	t      *testing.T
	server *berthtest.Server
	wire   *wire
	model  *model
	rand   *rand.Rand

	failing bool // while it crashes, the server may answer that it has failed
}

func newCrasher(t *testing.T, s *berthtest.Server) *crasher {
	t.Helper()
	t.Logf("seed %d: repeat with -seed", *seed)
	return &crasher{t: t, server: s, wire: newWire(s.URL), model: newModel(), rand: rand.New(rand.NewPCG(*seed, 0))}
}

// loop goes through rounds of work, crash and check. crash ends the server in
// its way and starts it again.
func (c *crasher) loop(rounds int, crash func()) {
	c.t.Helper()
	deadline := time.Now().Add(*soak)
	for round := 0; round < rounds || time.Now().Before(deadline); round++ {
		c.work(round, crash)
		for _, err := range c.model.check(c.wire, round%8 == 7) {
			c.t.Errorf("round %d: %v", round, err)
		}
		for _, s := range c.model.takeSessions() {
			if err := c.resume(s); err != nil {
				c.t.Errorf("round %d: resume an upload of %d bytes, %d of them acknowledged: %v", round, len(s.data), s.acked, err)
			}
		}
		if c.t.Failed() {
			c.t.FailNow()
		}
	}
	for _, err := range c.model.check(c.wire, true) {
		c.t.Errorf("at the end: %v", err)
	}
	blobs, manifests := c.model.size()
	c.t.Logf("%d blobs and %d manifests acknowledged and verified", blobs, manifests)
}

// work lets clients work until the server crashes under them.
func (c *crasher) work(round int, crash func()) {
	c.t.Helper()
	var crashing atomic.Bool
	var clients sync.WaitGroup
	for i := range pushers {
		p := &pusher{
			name: fmt.Sprintf("r%d-p%d", round, i), wire: newWire(c.server.URL), model: c.model,
			rand: rand.New(rand.NewPCG(*seed, uint64(round*pushers+i+1))),
		}
		clients.Go(func() {
			err := p.run()
			if !crashing.Load() || !c.excused(err) {
				c.t.Errorf("round %d: %v", round, err)
			}
		})
	}
	pause := time.Duration(10+c.rand.IntN(400)) * time.Millisecond
	if round%8 == 5 {
		pause += 6 * time.Second // for what the server does now and then
	}
	time.Sleep(pause)
	crashing.Store(true)
	crash()
	clients.Wait()
}

// excused says whether a client may see an error while the server crashes: a
// broken connection, or the failure that made it crash.
func (c *crasher) excused(err error) bool {
	if answered, ok := errors.AsType[*unexpected](err); ok {
		return c.failing && answered.got.status >= http.StatusInternalServerError
	}
	return true
}

// resume goes on with an upload where the server says that it is, which is where
// it was acknowledged or behind.
func (c *crasher) resume(s *session) error {
	a, err := c.wire.must(http.StatusNoContent, "GET", s.location, nil)
	if err != nil {
		return err
	}
	at, err := rangeEnd(a)
	if err != nil {
		return err
	}
	if at < s.acked || at > s.sent {
		return fmt.Errorf("it is at %d", at)
	}
	if err := c.wire.commitUpload(s.location, s.data, at); err != nil {
		return err
	}
	d := digest.FromBytes(s.data)
	c.model.blob(s.repo, d, true)
	got, err := c.wire.pullBlob(s.repo, d)
	if err == nil && !bytes.Equal(got.body, s.data) {
		err = errors.New("it became another blob")
	}
	return err
}

// leftovers checks that what dead uploads have left behind goes, once their time
// is over.
func (c *crasher) leftovers() {
	t, s := c.t, c.server
	t.Helper()
	c.work(-1, s.Kill)
	s.Setenv("BERTH_STORAGE_UPLOAD_EXPIRY=1s")
	s.Restart()
	uploads := filepath.Join(s.Data, "uploads")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left, err := os.ReadDir(uploads)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d leftovers of uploads are still there, %s among them", len(left), left[0].Name())
		}
	}
	for _, u := range c.model.takeSessions() {
		if a, err := c.wire.do("GET", u.location, nil); err != nil || u.acked > 0 && a.status != http.StatusNotFound {
			t.Errorf("an upload whose time is over answers %s: %v", a, err)
		}
	}
	for _, err := range c.model.check(c.wire, true) {
		t.Error(err)
	}
	c.halves(filepath.Join(s.Data, "blobs"))
}

// halves checks that a file that holds only a part of its blob, of a push that
// nobody was told of, is no blob for anybody.
func (c *crasher) halves(dir string) {
	c.t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		d := digest.Digest("sha256:" + e.Name())
		if d.Validate() == nil && hashFile(c.t, path) != d.Encoded() {
			_, err = c.wire.must(http.StatusAccepted, "POST", "/v2/halves/blobs/uploads/?mount="+d.String(), nil)
		}
		return err
	})
	if err != nil || files == 0 {
		c.t.Errorf("among %d files of blobs: %v", files, err)
	}
}
