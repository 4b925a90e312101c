package registry_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

// killedDir names the directory for the process that TestUsageKilled kills.
const killedDir = "BERTH_TEST_USAGE_DIR"

// TestUsageKilled kills a process that pushes, deletes, collects and counts, again
// and again: what it leaves is right.
func TestUsageKilled(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		changeForever(t, dir)
	}
	dir := t.TempDir()
	for round := range 6 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUsageKilled$")
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, want := bufio.NewScanner(out), 20+rand.IntN(60)
		for n := 0; n < want && lines.Scan(); n++ {
			if text := lines.Text(); !strings.HasPrefix(text, "did ") || strings.Contains(text, "FAILED") {
				t.Errorf("the process says: %s", text)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		checkKilled(t, round, dir)
	}
}

func checkKilled(t *testing.T, round int, dir string) {
	t.Helper()
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	l := newLocal(t, blobs, meta)
	defer l.Close()
	quotas := killedQuotas(round)
	l.SetQuotas(quotas)
	if err := l.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkCounts(t, fmt.Sprintf("killed %d times", round+1), l, meta, quotas...)
	if round%2 == 1 {
		return
	}
	if err := l.Uncount(t.Context()); err != nil { // the next process has everything to count
		t.Fatal(err)
	}
}

func killedQuotas(round int) []registry.Quota {
	return []registry.Quota{under("a", 0, 0), under("b", 1<<40, 1<<20), under("", int64(1<<50+round), 0)}
}

// changeForever does random things to the store in a directory until it is killed.
func changeForever(t *testing.T, dir string) {
	ctx := context.Background()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := registry.NewLocal(ctx, blobs, meta, registry.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l.SetQuotas(killedQuotas(0))
	for i := range 100 {
		text := fmt.Sprint("blob ", i)
		if _, err := l.PushBlob(ctx, fmt.Sprintf("a/r%d", i%9), digest.FromString(text), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		go func() {
			s := newSteps(l, rand.Uint64())
			for n := 0; ; n++ {
				what, err := s.step(ctx)
				switch {
				case err != nil:
				case i == 0 && n%5 == 0:
					what, err = "collection", l.Collect(ctx, true, nil)
				case i == 1 && n%3 == 0:
					what, err = "count", l.Recount(ctx)
				}
				if err != nil {
					what = fmt.Sprintf("FAILED %s: %v", what, err)
				}
				_, _ = fmt.Fprintln(os.Stdout, "did", what)
			}
		}()
	}
	select {}
}
