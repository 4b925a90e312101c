package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const (
	migrateKills   = 6
	migrateClients = 4
)

// migration is a registry that is moved while clients push.
type migration struct {
	*crasher
	stores *berthtest.Stores
	rand   *rand.Rand
	broken atomic.Bool // servers end and begin: connections may break
	end    atomic.Bool
	pushed atomic.Int64 // steps that were acknowledged
	waited atomic.Int64 // steps that were refused for a while
}

// TestMigrate moves a registry from a directory to S3 and PostgreSQL while clients
// push, mount and delete all the time. The command and the server are killed at random,
// and it is done again, until it comes to its end: what was acknowledged is at the
// target, with the upload sessions that were open. Then it is moved back.
func TestMigrate(t *testing.T) {
	t.Parallel()
	quiet := []string{"BERTH_LOG_ACCESS=false"}
	s := berthtest.Start(t, berthtest.Options{Env: quiet})
	m := &migration{crasher: newCrasher(t, s), stores: berthtest.StartStores(t), rand: rand.New(rand.NewPCG(*seed, 99))}
	var clients sync.WaitGroup
	for i := range migrateClients {
		clients.Go(func() { m.client(i) })
	}
	defer clients.Wait()
	defer m.end.Store(true)
	m.waitPushed(50)
	whole := m.killed()
	done := m.move("file:"+s.Data, "s3+postgres")
	if done.Already != whole {
		t.Errorf("it was moved before: %v, want %v", done.Already, whole)
	}
	m.end.Store(true)
	clients.Wait()
	t.Logf("%d steps of clients were acknowledged, %d were refused for a while; writes were refused for %.2f s in the last try", m.pushed.Load(), m.waited.Load(), done.ReadOnlySeconds)
	// A server that is killed as it commits leaves a session without bytes: those that
	// clients count on are checked below.
	if !whole && (done.Rows == 0 || done.Blobs == 0) {
		t.Errorf("it has moved %+v", done)
	}
	m.refused()
	s.Stop()
	if code, said := s.RunSecond(); code == 0 || !strings.Contains(said, "was moved to s3+postgres") || !strings.Contains(said, "moved to go back") {
		t.Errorf("a server on what was moved ends with %d: %s", code, said)
	}
	m.checkOn(berthtest.Options{Addr: s.Addr, Env: slices.Concat(m.stores.Env(), quiet, []string{"BERTH_STORAGE_S3_REDIRECT=false"})})
	dir := filepath.Join(t.TempDir(), "back")
	m.move("s3+postgres", "file:"+dir)
	m.checkOn(berthtest.Options{Addr: s.Addr, Data: dir, Env: quiet})
}

// killed begins to move again and again, and kills the command, or the server. It says
// whether one of the commands came to its end before.
func (m *migration) killed() (whole bool) {
	for i := range migrateKills {
		var slow []string // so that it is killed while it copies, too
		if i%2 == 0 {
			slow = []string{"--rate", "0.2"}
		}
		stop := m.command("file:"+m.server.Data, "s3+postgres").Service(func(string) error { return nil }, slow...)
		time.Sleep(time.Duration(m.rand.IntN(1200)) * time.Millisecond) // the kill is to come at random
		if i%3 == 2 {
			m.broken.Store(true)
			m.server.Kill()
			stop(syscall.SIGKILL)
			m.server.Restart()
			m.broken.Store(false)
		} else if code := stop(syscall.SIGKILL); code == 0 {
			return true
		} else if code > 0 {
			m.t.Fatalf("it has failed before it was killed")
		}
		if _, err := os.Stat(filepath.Join(m.server.Data, "moved")); err == nil {
			return true // it was killed as it was about to say so
		}
		m.waitPushed(20) // the server takes writes again
	}
	return false
}

func (m *migration) command(from, to string) *berthtest.Command {
	return m.server.Berth("migrate", "--from", from, "--to", to).Env(m.stores.Env()...).Within(3 * time.Minute)
}

type migrateDone struct {
	Blobs, Rows     int64
	Already         bool
	ReadOnlySeconds float64 `json:"read_only_seconds"`
}

// move moves the registry.
func (m *migration) move(from, to string) (done migrateDone) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.command(from, to).Run("--json")), &done); err != nil {
		m.t.Fatal(err)
	}
	return done
}

// client pushes until the test ends. What is refused for a while it tries again.
func (m *migration) client(number int) {
	for try := 0; !m.end.Load(); try++ {
		p := &pusher{
			name: fmt.Sprintf("c%d-%d", number, try), wire: newWire(m.server.URL), model: m.model,
			rand: rand.New(rand.NewPCG(*seed, uint64(1000*number+try))),
		}
		var err error
		for err == nil && !m.end.Load() {
			if err = p.step(); err == nil {
				m.pushed.Add(1)
			}
		}
		if err == nil {
			return
		}
		if !m.excused(err) {
			m.t.Errorf("client %d: %v", number, err)
			return
		}
		m.waited.Add(1)
		time.Sleep(50 * time.Millisecond) // as a client does that was told to try again
	}
}

// excused says whether a client may see an error: that it is to try again, or that its
// connection broke, also as it was refused before all was sent.
func (m *migration) excused(err error) bool {
	if answered, ok := errors.AsType[*unexpected](err); ok {
		got := answered.got
		return got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") != "" && strings.Contains(string(got.body), "UNAVAILABLE")
	}
	return m.broken.Load() || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// waitPushed waits until clients have done something more.
func (m *migration) waitPushed(n int64) {
	m.t.Helper()
	begun := m.pushed.Load()
	for end := time.Now().Add(30 * time.Second); m.pushed.Load() < begun+n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || m.t.Failed() {
			m.t.Fatalf("clients have pushed %d times in half a minute, want %d", m.pushed.Load()-begun, n)
		}
	}
}

// refused checks that what was moved is only read.
func (m *migration) refused() {
	m.t.Helper()
	a, err := m.wire.pushBlob("kill/repo-0", []byte("late"))
	if err != nil || a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "moved") {
		m.t.Errorf("a push is answered by %d %s, %v", a.status, a.body, err)
	}
	if _, err := m.wire.must(http.StatusOK, "GET", "/v2/_catalog", nil); err != nil {
		m.t.Error(err)
	}
}

// checkOn checks that a server has what was acknowledged, and goes on with the sessions.
func (m *migration) checkOn(o berthtest.Options) {
	m.t.Helper()
	m.server = berthtest.Start(m.t, o)
	m.wire = newWire(m.server.URL)
	for _, err := range m.model.check(m.wire, true) {
		m.t.Error(err)
	}
	for _, s := range m.model.takeSessions() {
		if err := m.resume(s); err != nil {
			m.t.Errorf("go on with an upload of %d bytes, %d of them acknowledged: %v", len(s.data), s.acked, err)
		}
	}
	blobs, manifests := m.model.size()
	m.t.Logf("%d blobs and %d manifests acknowledged and verified", blobs, manifests)
	m.server.Stop()
}
