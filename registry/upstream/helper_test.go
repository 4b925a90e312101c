package upstream_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
)

// helper installs a credential helper named test on PATH, which is a script of sh
// that runs in the directory that is returned.
func helper(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text := "#!/bin/sh\ncd " + dir + "\necho x >>runs\n" + script
	ok(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(text), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func runs(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "runs"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "x")
}

// basicOnly lets in who has the password that is in force.
func basicOnly(w *world, password *string, status int) {
	w.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		user, pass, is := r.BasicAuth()
		if user == "AWS" && pass == *password {
			return false
		}
		refusal := status
		if !is {
			refusal = http.StatusUnauthorized
		}
		return always(refusal, map[string]string{"Www-Authenticate": `Basic realm="x"`}, "")(rw, r)
	})
}

func TestCredentialHelper(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} { // ECR says 403 of what has expired
		w := newWorld(t)
		password := secret
		basicOnly(w, &password, status)
		dir := helper(t, "[ \"$1\" = get ] || exit 1\ncat >asked\nprintf '{\"ServerURL\":\"x\",\"Username\":\"AWS\",\"Secret\":\"'; cat password; printf '\"}'\n")
		ok(t, os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600))
		var c clock
		u := dial(t, upstream.Options{URL: w.url, CredentialHelper: "test", Now: c.now})
		for range 3 {
			ok(t, stat(t, u))
		}
		asked, err := os.ReadFile(filepath.Join(dir, "asked"))
		ok(t, err)
		if want := strings.TrimPrefix(w.url, "http://"); string(asked) != want || runs(t, dir) != 1 {
			t.Errorf("it was run %d times, asked for %q, want once for %q", runs(t, dir), asked, want)
		}
		password = "another"
		ok(t, os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600))
		if status == http.StatusForbidden {
			w.asked()
			if e := unavailable(t, stat(t, u)); !e.Denied || runs(t, dir) != 1 {
				t.Errorf("denied soon after: %+v, run %d times", e, runs(t, dir))
			}
			<-time.After(10 * time.Millisecond)
			upstream.Age(u, time.Minute)
		}
		ok(t, stat(t, u))
		if runs(t, dir) != 2 {
			t.Errorf("it was run %d times, want once more", runs(t, dir))
		}
		password = "a third that it does not know"
		if e := unavailable(t, stat(t, u)); runs(t, dir) > 3 || u.Unavailable() != nil {
			t.Errorf("a password that is not taken: %+v, run %d times", e, runs(t, dir))
		}
	}
}

func TestCredentialHelpersThatFail(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"exit":         {"echo " + secret + "; echo " + secret + " >&2; exit 3", "exit status 3"},
		"no JSON":      {"echo " + secret, "not valid"},
		"no secret":    {"echo '{\"Username\":\"" + secret + "\"}'", "not valid"},
		"nothing":      {"", "not valid"},
		"not there":    {"echo credentials not found in native keychain; exit 1", "it has no credentials for 127.0.0.1"},
		"without end":  {"while :; do echo " + secret + "; done", "writes more than any answer"},
		"not a script": {"\x00\xff", "credential helper docker-credential-test"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			password := secret
			basicOnly(w, &password, http.StatusUnauthorized)
			dir := helper(t, tt.script+"\n")
			var logs strings.Builder
			u := dial(t, upstream.Options{URL: w.url, CredentialHelper: "test", Log: slog.New(slog.NewTextHandler(&logs, nil)), Retries: -1})
			for range 5 {
				err := stat(t, u)
				if e := unavailable(t, err); !strings.Contains(e.Reason, tt.want) || !errors.Is(err, registry.ErrUnavailable) || strings.Contains(err.Error(), secret) {
					t.Errorf("got error %v, want %q", err, tt.want)
				}
			}
			if runs(t, dir) > 1 {
				t.Errorf("it was run %d times, want once", runs(t, dir))
			}
			if !strings.Contains(logs.String(), "unavailable") || strings.Contains(logs.String(), secret) {
				t.Errorf("log: %s", logs.String())
			}
		})
	}
}

// A helper that hangs is ended with what it started, and its caller told.
func TestCredentialHelperThatHangs(t *testing.T) {
	w := newWorld(t)
	password := secret
	basicOnly(w, &password, http.StatusUnauthorized)
	dir := helper(t, "sleep 1000 &\necho $! >child\necho $$ >parent\nmv parent started\nwait\n")
	u := dial(t, upstream.Options{URL: w.url, CredentialHelper: "test"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- statOf(ctx, u.Client(), "library/app") }()
	until(t, "the helper runs", func() bool { _, err := os.Stat(filepath.Join(dir, "started")); return err == nil })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want canceled", err)
	}
	for _, file := range []string{"started", "child"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		ok(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		ok(t, err)
		until(t, "the helper is gone", func() bool { return ended(pid) })
	}
}

// ended says whether a process is gone, or only waits to be reaped.
func ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, _ := strings.Cut(string(data), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// until waits for what must happen soon.
func until(t *testing.T, what string, happens func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !happens(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
