package e2e

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// waitFor polls until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: no %s", what)
		}
	}
}

// halfPush begins to push data, and returns once the server has asked for the
// body. finish sends it; what the server answers comes from answers.
func halfPush(t *testing.T, s *berthtest.Server, data string) (finish func(), answers <-chan string) {
	t.Helper()
	body, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		s.URL+"/v2/a/blobs/uploads/?digest="+string(digest.FromString(data)), body)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan string, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			result <- err.Error()
			return
		}
		_ = resp.Body.Close()
		result <- resp.Status
	}()
	// The pipe is read only when the request is being sent, and what is larger
	// than all buffers only when the server reads.
	if _, err := io.WriteString(w, data[:len(data)/2]); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, _ = io.WriteString(w, data[len(data)/2:])
		_ = w.Close()
	}, result
}

var long = strings.Repeat("0123456789abcdef", 2<<20) // 32 MiB

// After SIGTERM the server takes no new connection, finishes what is in flight,
// and ends with success.
func TestStopFinishesRequests(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{})
	finish, answers := halfPush(t, s, long)
	if err := syscall.Kill(s.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "refusal of new connections", func() bool {
		c, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	finish()
	if got := <-answers; got != "201 Created" {
		t.Errorf("the push in flight got %s", got)
	}
	s.Stop()
	s.Restart()
	if _, err := newWire(s.URL).must(http.StatusOK, http.MethodHead, "/v2/a/blobs/"+string(digest.FromString(long)), nil); err != nil {
		t.Error(err)
	}
}

// A request that does not end is cut off when its time is up.
func TestStopHasALimit(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Env: []string{"BERTH_HTTP_SHUTDOWN_TIMEOUT=300ms"}})
	finish, answers := halfPush(t, s, long)
	s.Stop()
	finish() // the client notices only now that nobody listens
	if got := <-answers; strings.HasPrefix(got, "2") {
		t.Errorf("the push that never ended got %s", got)
	}
	if !strings.Contains(s.Log(), "requests were cut off") {
		t.Error("the log does not say that requests were cut off")
	}
}

// SIGHUP makes the server read its configuration again; one that is wrong
// changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "berth.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {access: false}\n")
	s := berthtest.Start(t, berthtest.Options{Args: []string{"--config", file}})
	w := newWire(s.URL)
	reload := func(text, logged string) {
		t.Helper()
		write(text)
		before := strings.Count(s.Log(), logged)
		if err := syscall.Kill(s.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		waitFor(t, logged, func() bool { return strings.Count(s.Log(), logged) > before })
	}
	w.serves(t, 1)
	reload("log: {access: true}\n", `"changed":["log.access"]`)
	w.serves(t, 2)
	waitFor(t, "access log", func() bool { return strings.Contains(s.Log(), `"msg":"request"`) })
	reload("log: {acess: false}\n", "did you mean log.access")
	w.serves(t, 3)
	reload("http: {idle_timeout: 1m}\n", `"keys":["http.idle_timeout"]`)
	w.serves(t, 4)
}
