package htpasswd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/htpasswd"
)

// line returns a line of the file, made at the least cost.
func line(t *testing.T, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// errors returns how many errors were logged since it was last called.
func (l *logged) errors() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return strings.Count(l.b.String(), "level=ERROR")
}

// follow opens the file in a bubble of synctest, and ends with the test.
func follow(t *testing.T, path string) (*htpasswd.File, *logged) {
	t.Helper()
	log := &logged{}
	ctx, cancel := context.WithCancel(t.Context())
	f, err := htpasswd.Open(ctx, path, htpasswd.Options{Log: slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		f.Wait()
	})
	return f, log
}

// settle lets so much time go by that a change is in force. It ends half way
// between two looks at the file, which fall on whole seconds: what the test does
// next is done when nobody looks.
func settle() {
	const look = time.Second
	time.Sleep(5*look + look/2 - time.Duration(time.Now().Nanosecond()))
	synctest.Wait()
}

// login says how a login ends.
func login(t *testing.T, f *htpasswd.File, name, password string) error {
	t.Helper()
	id, err := f.Login(t.Context(), name, password)
	if (id == nil) != (err != nil) {
		t.Fatalf("identity %v beside error %v", id, err)
	}
	if err == nil && (id.Account != name || id.Source != "htpasswd" || id.Source != f.Name() || !f.Current(id)) {
		t.Errorf("identity %+v, current %v", id, f.Current(id))
	}
	return err
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestLogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	long := strings.Repeat("l", 72)
	write(t, path, line(t, "alice", "wonderland")+line(t, "bob", long)+line(t, "empty", ""))
	f, err := htpasswd.Open(t.Context(), path, htpasswd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, account, password string
		err                     error
	}{
		{"right", "alice", "wonderland", nil},
		{"wrong", "alice", "wonderlane", auth.ErrWrong},
		{"empty", "alice", "", auth.ErrWrong},
		{"another's", "alice", long, auth.ErrWrong},
		{"unknown", "eve", "wonderland", auth.ErrUnknown},
		{"nobody", "", "", auth.ErrUnknown},
		{"case", "Alice", "wonderland", auth.ErrUnknown},
		{"line", "alice\nbob", "wonderland", auth.ErrUnknown},
		{"huge name", strings.Repeat("a", 1<<20), "x", auth.ErrUnknown},
		{"72 bytes", "bob", long, nil},
		{"73 bytes", "bob", long + "l", auth.ErrWrong},
		{"huge", "bob", strings.Repeat("l", 1<<20), auth.ErrWrong},
		{"NUL repeats", "alice", "wonderland\x00wonderland", auth.ErrWrong},
		{"NUL behind", "alice", "wonderland\x00", auth.ErrWrong},
		{"not UTF-8", "alice", "wonderland\xff", auth.ErrWrong},
	} {
		want(t, c.name, login(t, f, c.account, c.password), c.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Login(ctx, "alice", "wonderland"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestCurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, line(t, "alice", "one")+line(t, "bob", "two"))
	f, err := htpasswd.Open(t.Context(), path, htpasswd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	alice, err := f.Login(t.Context(), "alice", "one")
	if err != nil {
		t.Fatal(err)
	}
	byKey := &auth.Identity{Account: "alice", Source: "htpasswd", Key: "k"}
	elsewhere, noEpoch := *alice, *alice
	elsewhere.Source, noEpoch.Epoch = "ldap", ""
	if !f.Current(alice) || !f.Current(byKey) || f.Current(&elsewhere) || f.Current(&noEpoch) || f.Current(auth.Anonymous) {
		t.Error("takes the wrong identities for current")
	}
	write(t, path, line(t, "alice", "other")+line(t, "bob", "two"))
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if f.Current(alice) || !f.Current(byKey) {
		t.Error("a changed password ends what it was signed in by, and not what a key was")
	}
	write(t, path, line(t, "bob", "two"))
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if f.Current(alice) || f.Current(byKey) {
		t.Error("a removed account is current")
	}
}

func TestOpenWrong(t *testing.T) {
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		write(t, path, data)
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, err string }{
		{"missing", filepath.Join(dir, "none"), "none: no such file"},
		{"directory", dir, "not a regular file"},
		{"pipe", pipe, "not a regular file"},
		{"wrong line", file("wrong", "# users\n"+line(t, "a", "b")+"c:$apr1$x\n"), filepath.Join(dir, "wrong") + `:3: "c": its password is not hashed by bcrypt; make it with htpasswd -B`},
		{"too large", file("large", strings.Repeat("#\n", 8<<20)+"#"), "larger than 16 MiB"},
	} {
		if f, err := htpasswd.Open(t.Context(), c.path, htpasswd.Options{}); err == nil || !strings.Contains(err.Error(), c.err) || f != nil {
			t.Errorf("%s: %v, want %s", c.name, err, c.err)
		}
	}
	if _, err := htpasswd.Open(t.Context(), file("empty", ""), htpasswd.Options{}); err != nil {
		t.Errorf("no users yet: %v", err)
	}
	if _, err := htpasswd.Open(t.Context(), file("full", strings.Repeat("#\n", 8<<20)), htpasswd.Options{}); err != nil {
		t.Errorf("16 MiB: %v", err)
	}
}

// A file that is written in pieces, slower than it is looked at, is in force when
// it is whole, and not before.
func TestPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users")
		alice, bob, carol := line(t, "alice", "a"), line(t, "bob", "b"), line(t, "carol", "c")
		write(t, path, alice+bob)
		f, log := follow(t, path)
		settle()

		file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		// Between the pieces is less time than two looks take; they end between
		// lines, within a name, within a hash.
		for _, piece := range []string{"", alice, carol[:3], carol[3:40], carol[40:]} {
			if _, err := file.WriteString(piece); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(300 * time.Millisecond)
				want(t, "while it is written", login(t, f, "bob", "b"), nil)
			}
		}
		settle()
		want(t, "written: old", login(t, f, "bob", "b"), auth.ErrUnknown)
		want(t, "written: new", login(t, f, "carol", "c"), nil)
		if n := log.errors(); n != 0 {
			t.Errorf("%d errors logged", n)
		}
	})
}

// What is left behind half written, wrong, empty or gone leaves the last good file
// in force, and is logged once.
func TestLastGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users")
		alice, bob := line(t, "alice", "a"), line(t, "bob", "b")
		write(t, path, alice)
		f, log := follow(t, path)
		settle()
		for i, bad := range []string{bob + alice[:20], "", "x", alice + alice, strings.Repeat("#\n", 9<<20)} {
			write(t, path, bad)
			settle()
			settle()
			want(t, fmt.Sprint("bad file ", i), login(t, f, "alice", "a"), nil)
			want(t, fmt.Sprint("bad file ", i), login(t, f, "bob", "b"), auth.ErrUnknown)
			if n := log.errors(); n != 1 {
				t.Errorf("bad file %d: %d errors logged, want 1", i, n)
			}
			if err := f.Reload(); err == nil {
				t.Errorf("bad file %d: Reload says nothing", i)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		settle()
		want(t, "gone", login(t, f, "alice", "a"), nil)
		if n := log.errors(); n != 1 {
			t.Errorf("gone: %d errors logged, want 1", n)
		}
		write(t, path, bob)
		settle()
		want(t, "put back", login(t, f, "bob", "b"), nil)
		want(t, "put back", login(t, f, "alice", "a"), auth.ErrUnknown)
		write(t, path, "# nobody\n")
		settle()
		want(t, "no users, on purpose", login(t, f, "bob", "b"), auth.ErrUnknown)
		if n := log.errors(); n != 0 {
			t.Errorf("put back: %d errors logged, want none", n)
		}
	})
}

func TestRename(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "users")
		write(t, path, line(t, "alice", "a"))
		f, _ := follow(t, path)
		for i := range 3 {
			name := fmt.Sprint("user-", i)
			write(t, path+".new", line(t, name, "b"))
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
			settle()
			want(t, name, login(t, f, name, "b"), nil)
			want(t, name, login(t, f, "alice", "a"), auth.ErrUnknown)
		}
	})
}

// Kubernetes swaps a link to the directory that the file's link goes through.
func TestSymlink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		version := func(name, data string) {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name, "users"), data)
			if err := os.Symlink(name, filepath.Join(dir, "..tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		version("1", line(t, "alice", "a"))
		path := filepath.Join(dir, "users")
		if err := os.Symlink(filepath.Join("..data", "users"), path); err != nil {
			t.Fatal(err)
		}
		f, log := follow(t, path)
		want(t, "first", login(t, f, "alice", "a"), nil)
		version("2", line(t, "bob", "b"))
		settle()
		want(t, "second", login(t, f, "bob", "b"), nil)
		want(t, "second", login(t, f, "alice", "a"), auth.ErrUnknown)
		// The link leads nowhere for a while.
		if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		settle()
		want(t, "nowhere", login(t, f, "bob", "b"), nil)
		version("3", line(t, "carol", "c"))
		settle()
		want(t, "third", login(t, f, "carol", "c"), nil)
		if n := log.errors(); n != 1 {
			t.Errorf("%d errors logged, want 1", n)
		}
	})
}

// A file that never stays the same is taken as it is now and then.
func TestRestless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users")
		write(t, path, line(t, "alice", "a"))
		f, _ := follow(t, path)
		bob := line(t, "bob", "b")
		time.Sleep(250 * time.Millisecond) // no write falls on a look
		for i := range 60 {
			write(t, path, bob+strings.Repeat("#\n", i))
			time.Sleep(500 * time.Millisecond)
		}
		want(t, "restless", login(t, f, "bob", "b"), nil)
	})
}

// After its context has ended, nothing of a File runs: else the bubble would not
// end.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users")
		write(t, path, line(t, "alice", "a"))
		ctx, cancel := context.WithCancel(t.Context())
		f, err := htpasswd.Open(ctx, path, htpasswd.Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, line(t, "bob", "b")+"#\n")
		time.Sleep(1500 * time.Millisecond) // it waits for the file to settle
		cancel()
		f.Wait()
		want(t, "after the end", login(t, f, "alice", "a"), nil)
	})
}

// Readers see one file or the other while it is reloaded.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	alice, bob := line(t, "alice", "a"), line(t, "bob", "b")
	write(t, path, alice)
	f, err := htpasswd.Open(t.Context(), path, htpasswd.Options{Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for range 50 {
				if err := login(t, f, "alice", "a"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for i := range 50 {
			write(t, path+".new", alice+strings.Repeat(bob, i%2))
			if err := errors.Join(os.Rename(path+".new", path), f.Reload()); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
}

// What Apache's own program writes is understood.
func TestRealHtpasswd(t *testing.T) {
	program, err := exec.LookPath("htpasswd")
	if err != nil {
		t.Fatal("this test needs htpasswd, which is not installed; run: make tools")
	}
	path := filepath.Join(t.TempDir(), "users")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("htpasswd: %v\n%s", err, out)
		}
	}
	run("-cbB", path, "alice", "wonderland")
	run("-bB", "-C", "4", path, "bob@example.com", "pässwörd ☃ with blanks")
	f, err := htpasswd.Open(t.Context(), path, htpasswd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "alice", login(t, f, "alice", "wonderland"), nil)
	want(t, "bob", login(t, f, "bob@example.com", "pässwörd ☃ with blanks"), nil)
	want(t, "bob, wrong", login(t, f, "bob@example.com", "password"), auth.ErrWrong)

	run("-bB", path, "alice", "looking-glass")
	run("-D", path, "bob@example.com")
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	want(t, "changed", login(t, f, "alice", "looking-glass"), nil)
	want(t, "changed, old", login(t, f, "alice", "wonderland"), auth.ErrWrong)
	want(t, "removed", login(t, f, "bob@example.com", "pässwörd ☃ with blanks"), auth.ErrUnknown)

	run("-bm", path, "carol", "c")
	if err := f.Reload(); err == nil || !strings.Contains(err.Error(), path+":2:") || !strings.Contains(err.Error(), "htpasswd -B") {
		t.Errorf("MD5: %v", err)
	}
	want(t, "last good", login(t, f, "alice", "looking-glass"), nil)
}
