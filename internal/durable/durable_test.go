package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/durable"
)

func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "a/b/to")
	for _, text := range []string{"first", "second"} { // the second time there is a file
		if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := durable.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); string(got) != text || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := durable.Rename(from, to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := durable.Remove(to); err != nil {
		t.Error(err)
	}
	if err := durable.Remove(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := durable.MkdirAll(filepath.Join(dir, "a/b/c")); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "sub")} {
		if err := durable.MkdirAll(path); err == nil {
			t.Errorf("a file passes for a directory: %s", path)
		}
	}
}

// holder, in the environment, makes the test program hold a lock until its input
// ends.
const holder = "BERTH_TEST_LOCK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holder); dir != "" {
		_, err := durable.Lock(dir)
		_, _ = fmt.Fprintln(os.Stdout, err)
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	other := exec.CommandContext(t.Context(), os.Args[0])
	other.Env = append(os.Environ(), holder+"="+dir)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	if n, err := out.Read(said); err != nil || string(said[:n]) != "<nil>\n" {
		t.Fatalf("the other process says %q, %v", said[:n], err)
	}
	_, err = durable.Lock(dir)
	if !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(other.Process.Pid)) {
		t.Errorf("a lock that process %d holds: %v", other.Process.Pid, err)
	}
	_ = in.Close()
	if err := other.Wait(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		unlock, err := durable.Lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := unlock(); err != nil {
			t.Fatal(err)
		}
	}
}

// The lock of a process that was killed is waited for while a child of it still
// has it, and that of one that lives is not.
func TestLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	unlock, err := durable.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Lock(dir); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(strconv.Itoa(dead.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = unlock() })
	again, err := durable.Lock(dir)
	if err != nil {
		t.Fatalf("the lock of a dead process: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}

// TestReadFile reads what is no file, or too large, as an error at once.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := durable.WriteFile(path("some"), []byte("text")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		path("some"):    "",
		path("fifo"):    "it is no file",
		dir:             "it is no file",
		"/dev/zero":     "it is no file",
		path("missing"): "no such file or directory",
	} {
		got, err := durable.ReadFile(name, 4)
		if want == "" && (string(got) != "text" || err != nil) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if _, err := durable.ReadFile(path("missing"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := durable.ReadFile(path("some"), 3); err == nil || err.Error() != "it has more than 3 bytes" {
		t.Errorf("too large a file: %v", err)
	}
}
