package proxy

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOwnCerts: a pair that is broken, or half written, takes nothing from others.
func TestOwnCerts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writePair(t, dir, "good", "good.test")
	writePair(t, dir, "wild", "*.wild.test")
	writePair(t, dir, "alone", "alone.test")
	alone := filepath.Join(dir, "alone.key")
	key, err := os.ReadFile(alone)
	if err == nil {
		err = os.Remove(alone)
	}
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	o, err := newOwnCerts(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	has := func(when string, names ...string) {
		t.Helper()
		if err := o.look(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"good.test", "a.wild.test", "alone.test"} {
			if got, want := o.find(name) != nil, strings.Contains(strings.Join(names, " "), name); got != want {
				t.Errorf("%s: %s is there: %t", when, name, got)
			}
		}
	}
	has("without a key", "good.test", "a.wild.test")
	if n := strings.Count(log.String(), "alone.key"); n != 1 {
		t.Errorf("it is told %d times: %s", n, log.String())
	}
	for _, text := range [][]byte{key, []byte("half"), nil} {
		if err := os.WriteFile(alone, text, 0o600); err != nil {
			t.Fatal(err)
		}
		has("its key is "+string(text), "good.test", "a.wild.test", "alone.test")
	}
	if err := os.Remove(filepath.Join(dir, "alone.crt")); err != nil {
		t.Fatal(err)
	}
	has("it is removed", "good.test", "a.wild.test")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := o.look(); err == nil || o.find("good.test") == nil {
		t.Errorf("the directory is gone: %v", err)
	}
	if _, err := newOwnCerts(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "edge.certs") {
		t.Errorf("there is none: %v", err)
	}
}
