package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/backup"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// What is restored is what was there: all rows and all bytes; upload sessions are not.
func TestThereAndBack(t *testing.T) {
	targets(t, func(t *testing.T, to backup.Target, _ string) {
		ctx := t.Context()
		s := openStore(t, t.TempDir()).start()
		s.mustPush("a/one", "v1", "first", "shared")
		s.mustPush("a/one", "v1", "second", "shared") // moves the tag
		s.mustPush("b", "large", filler("large", 20<<20), "")
		put(s, storage.Accounts, "alice", storage.Account{Password: []byte("hash"), Epoch: 3})
		put(s, storage.Signers, "key", storage.Signer{Private: []byte("private"), Created: time.Unix(1e9, 0)})
		put(s, storage.Uploads, "session", storage.Upload{Size: 5})
		put(s, storage.Counters, storage.CountUploads, storage.Counter{N: 1})
		if _, err := s.Snapshot(ctx, s.blobs); err != nil {
			t.Fatal(err)
		}
		res := s.backup(to, backup.Options{})
		if res.CopiedBlobs != 11 || res.PresentBlobs != 0 || res.Problems != 0 || res.Snapshot.Blobs != 11 {
			t.Errorf("backed up %+v, want 11 blobs", res)
		}
		got, back := restored(t, to, backup.RestoreOptions{})
		same(t, got.rows(), s.rows())
		if bad := got.verify(); bad != nil || back.CopiedBlobs != 11 || back.Problems != 0 {
			t.Errorf("restored %+v, damaged %v", back, bad)
		}
		got.start()
		if stats, err := got.Stats(ctx); err != nil || stats.Uploads != 0 {
			t.Errorf("stats are %+v, %v", stats, err)
		}
		if n, err := got.Snapshot(ctx, got.blobs); n != 2 || err != nil {
			t.Errorf("noted %d repositories anew, %v, want 2", n, err)
		}
		// A restore into what has all bytes copies none.
		if err := got.meta.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(got.dir, "meta.db")); err != nil {
			t.Fatal(err)
		}
		_ = got.blobs.Close()
		again := openStore(t, got.dir)
		spoil(t, pathOf(got.dir, digest.FromString("shared")))
		if res, err := backup.Restore(ctx, to, again.blobs, again.meta, backup.RestoreOptions{}); err != nil || res.CopiedBlobs != 1 || res.PresentBlobs != 10 {
			t.Errorf("restored again: %+v, %v, want the damaged blob alone", res, err)
		}
		same(t, again.rows(), s.rows())
		if bad := again.verify(); bad != nil {
			t.Error(bad)
		}
	})
}

// A backup copies what the target does not have, also if the one before was cut short.
func TestIncremental(t *testing.T) {
	targets(t, func(t *testing.T, to backup.Target, dir string) {
		s := openStore(t, t.TempDir()).start()
		for i := range 30 {
			s.mustPush("a", fmt.Sprint("v", i), fmt.Sprint("layer", i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		copied := int64(0)
		_, err := backup.Backup(ctx, backup.Source{Meta: s.meta, Blobs: &watched{Blobs: s.blobs, opened: func() {
			if atomic.AddInt64(&copied, 1) == 20 {
				cancel()
			}
		}}}, to, backup.Options{Jobs: 1})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("a backup that was interrupted: %v", err)
		}
		if all, err := backup.List(t.Context(), to); err != nil || len(all) != 0 {
			t.Fatalf("a backup that was cut short left %v, %v", all, err)
		}
		res := s.backup(to, backup.Options{})
		if res.PresentBlobs < 19 || res.PresentBlobs > 22 || res.PresentBlobs+res.CopiedBlobs != 90 {
			t.Errorf("after one that was cut short: %+v, want about 20 of 90 there", res)
		}
		s.mustPush("b", "v1", "layer3", "another")
		if res := s.backup(to, backup.Options{}); res.CopiedBlobs != 3 || res.PresentBlobs != 90 {
			t.Errorf("%+v, want 3 new ones", res)
		}
		// One that has another size is copied anew; one that has other bytes only if
		// they are read.
		spoil(t, pathOf(dir, digest.FromString("layer5")))
		if err := os.Truncate(pathOf(dir, digest.FromString("layer6")), 3); err != nil {
			t.Fatal(err)
		}
		if res := s.backup(to, backup.Options{}); res.CopiedBlobs != 1 {
			t.Errorf("%+v, want that of another size", res)
		}
		if res := s.backup(to, backup.Options{Verify: true}); res.CopiedBlobs != 1 || res.PresentBlobs != 92 {
			t.Errorf("%+v, want that with other bytes", res)
		}
		if got, res := restored(t, to, backup.RestoreOptions{}); res.Problems != 0 || got.verify() != nil {
			t.Errorf("restored %+v", res)
		}
	})
}

// watched tells when a blob is opened.
type watched struct {
	storage.Blobs
	opened func()
}

func (w *watched) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	w.opened()
	return w.Blobs.Open(ctx, d)
}

// Bytes that are damaged or missing do not stop a backup. In what is restored they are
// missing, and a push brings them back.
func TestDamagedStore(t *testing.T) {
	targets(t, func(t *testing.T, to backup.Target, _ string) {
		ctx := t.Context()
		s := openStore(t, t.TempDir()).start()
		s.mustPush("a", "v1", "good", "other bytes", "missing", "shorter", "longer")
		spoil(t, pathOf(s.dir, digest.FromString("other bytes")))
		long := digest.FromString("longer")
		for _, err := range []error{
			os.Remove(pathOf(s.dir, digest.FromString("missing"))),
			os.Truncate(pathOf(s.dir, digest.FromString("shorter")), 2),
			os.WriteFile(pathOf(s.dir, long), []byte("longer than it was"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		var problems []string
		res := s.backup(to, backup.Options{Progress: func(p backup.Progress) {
			if p.Problem != nil {
				problems = append(problems, string(p.Problem.Digest))
			}
		}})
		if res.Problems != 4 || len(problems) != 4 || res.CopiedBlobs != 3 {
			t.Errorf("%+v, %v, want 4 problems", res, problems)
		}
		got, back := restored(t, to, backup.RestoreOptions{})
		if back.Problems != 4 || len(got.verify()) != 4 {
			t.Errorf("restored %+v, %v", back, got.verify())
		}
		got.start()
		if _, _, err := got.Blob(ctx, "a", long); !errors.Is(err, registry.ErrBlobUnknown) {
			t.Errorf("a blob that is missing: %v", err)
		}
		got.mustPush("a", "v1", "good", "other bytes", "missing", "shorter", "longer")
		if bad := got.verify(); bad != nil {
			t.Error(bad)
		}
		if f, _, err := got.Blob(ctx, "a", long); err != nil {
			t.Errorf("a blob that was pushed again: %v", err)
		} else {
			_ = f.Close()
		}
	})
}

// A damaged snapshot is never restored, whatever byte of it is wrong; an older one only
// if that was said.
func TestDamagedSnapshot(t *testing.T) {
	to, dir := dirTarget(t)
	s := openStore(t, t.TempDir()).start()
	s.mustPush("a", "v1", "x")
	first := s.backup(to, backup.Options{Now: func() time.Time { return time.Unix(1e9, 0) }})
	s.mustPush("a", "v2", "y")
	second := s.backup(to, backup.Options{})
	path := filepath.Join(dir, "snapshots", second.Snapshot.Name+".rows")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	into, want := openStore(t, t.TempDir()), s.rows()
	tryRestore := func(data []byte) error {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := backup.Restore(t.Context(), to, into.blobs, into.meta, backup.RestoreOptions{})
		return err
	}
	for i := range whole {
		broken := slices.Clone(whole)
		broken[i] ^= 1 << (i % 8)
		switch err := tryRestore(broken); {
		case err == nil: // a bit that says nothing, RFC 8878 has some
			same(t, into.rows(), want)
			into = openStore(t, t.TempDir())
		case !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrLater):
			t.Fatalf("byte %d of %d is wrong: %v", i, len(whole), err)
		}
		if err := tryRestore(whole[:i]); !errors.Is(err, backup.ErrDamaged) {
			t.Fatalf("cut off behind %d of %d bytes: %v", i, len(whole), err)
		}
	}
	if err := tryRestore(append(slices.Clone(whole), whole...)); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("twice the same: %v", err)
	}
	if len(into.rows()) != 0 {
		t.Errorf("a damaged snapshot left rows: %v", into.rows())
	}
	err = tryRestore(whole[:len(whole)-1])
	if !strings.Contains(fmt.Sprint(err), first.Snapshot.Name) {
		t.Errorf("%v: does not name the snapshot before it", err)
	}
	var skipped []string
	got, res := restored(t, to, backup.RestoreOptions{Older: true, Skipped: func(name string, _ error) { skipped = append(skipped, name) }})
	if res.Snapshot.Name != first.Snapshot.Name || !slices.Equal(skipped, []string{second.Snapshot.Name}) || got.verify() != nil {
		t.Errorf("restored %+v, skipped %v", res, skipped)
	}
	// What a damaged snapshot needs nobody knows: no bytes go.
	if _, err := backup.Backup(t.Context(), s.source(), to, backup.Options{Keep: 2}); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a backup that cannot remove what is older: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "snapshots", first.Snapshot.Name+".rows")); err != nil {
		t.Error(err)
	}
	if _, err := backup.Restore(t.Context(), to, into.blobs, into.meta, backup.RestoreOptions{Snapshot: "20200101T000000.000Z"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

// --keep leaves the newest snapshots, and the bytes that they need.
func TestKeep(t *testing.T) {
	targets(t, func(t *testing.T, to backup.Target, dir string) {
		s := openStore(t, t.TempDir()).start()
		var last backup.Result
		for i := range 5 {
			s.mustPush("a", "v1", fmt.Sprint("layer", i), "shared")
			if err := s.Collect(t.Context(), true, nil); err != nil {
				t.Fatal(err)
			}
			last = s.backup(to, backup.Options{Keep: 2, Now: func() time.Time { return time.Unix(1e9+int64(i), 0) }})
		}
		if last.RemovedSnapshots != 1 || last.RemovedBlobs != 3 {
			t.Errorf("%+v, want an older snapshot and its layer, config and manifest removed", last)
		}
		all, err := backup.List(t.Context(), to)
		if err != nil || len(all) != 2 {
			t.Fatalf("left are %v, %v", all, err)
		}
		for _, snapshot := range all {
			if got, res := restored(t, to, backup.RestoreOptions{Snapshot: snapshot.Name}); res.Problems != 0 || got.verify() != nil {
				t.Errorf("snapshot %s: %+v", snapshot.Name, res)
			}
		}
		if _, err := os.Stat(pathOf(dir, digest.FromString("layer2"))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a layer that no snapshot needs: %v", err)
		}
	})
}

// A target has the backups of one registry, of what was restored from it, too.
func TestOtherRegistry(t *testing.T) {
	to, _ := dirTarget(t)
	openStore(t, t.TempDir()).start().backup(to, backup.Options{})
	if _, err := backup.Backup(t.Context(), openStore(t, t.TempDir()).start().source(), to, backup.Options{Keep: 1}); err == nil || !strings.Contains(err.Error(), "another registry") {
		t.Errorf("a backup of another registry: %v", err)
	}
	same, _ := restored(t, to, backup.RestoreOptions{})
	same.start().backup(to, backup.Options{})
}

// A directory that holds something else is left alone, and one that is written to has
// one writer.
func TestCreateDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.CreateDir(dir); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("made backups beside a thesis: %v", err)
	}
	_, mine := dirTarget(t)
	if _, err := backup.CreateDir(mine); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	if _, err := backup.OpenDir(filepath.Join(dir, "none")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("no backups at all: %v", err)
	}
}

// While pushes, deletes and collections run, each backup shows one moment, with all
// that was there.
func TestWhileInUse(t *testing.T) {
	to, _ := dirTarget(t)
	s := openStore(t, t.TempDir()).start()
	ctx, cancel := context.WithCancel(t.Context())
	var users sync.WaitGroup
	for n := range 3 {
		users.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			repo := fmt.Sprint("r", n)
			for ctx.Err() == nil {
				tag := fmt.Sprint("v", random.IntN(5))
				var err error
				if random.IntN(3) == 0 {
					err = s.DeleteTag(ctx, repo, tag)
				} else {
					_, err = s.push(ctx, repo, tag, fmt.Sprint(random.IntN(40)), fmt.Sprint(n, random.IntN(40)))
				}
				if err != nil && ctx.Err() == nil && !errors.Is(err, registry.ErrManifestUnknown) && !errors.Is(err, registry.ErrNameUnknown) && !isGone(err) {
					t.Errorf("%s: %v", repo, err)
				}
			}
		})
	}
	collected := atomic.Int64{}
	users.Go(func() {
		for ctx.Err() == nil {
			if err := s.Collect(ctx, true, func(done registry.Collected) { collected.Add(int64(len(done.Removed))) }); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	var made []backup.Result
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) || len(made) < 5; {
		res := s.backup(to, backup.Options{})
		if res.Problems != 0 {
			t.Errorf("a backup missed %d blobs", res.Problems)
		}
		made = append(made, res)
	}
	cancel()
	users.Wait()
	if collected.Load() == 0 {
		t.Error("nothing was collected meanwhile: this proves nothing")
	}
	t.Logf("%d backups, %d collected", len(made), collected.Load())
	for _, res := range made[max(0, len(made)-8):] {
		if got, back := restored(t, to, backup.RestoreOptions{Snapshot: res.Snapshot.Name}); back.Problems != 0 || got.verify() != nil {
			t.Errorf("snapshot %s: %+v, %v", res.Snapshot.Name, back, got.verify())
		}
	}
}

// isGone says that a push has to begin anew, as what it had pushed was collected
// before a manifest needed it: nothing keeps garbage here.
func isGone(err error) bool {
	return errors.Is(err, registry.ErrManifestBlobUnknown) || errors.Is(err, registry.ErrUnavailable)
}

// A full disk ends a backup, and takes nothing of what is there.
func TestDiskFull(t *testing.T) {
	s := openStore(t, t.TempDir()).start()
	dir := t.TempDir()
	if err := syscall.Mount("berth-test", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatalf("this test mounts a file system, which needs root: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	to, err := backup.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.Close() })
	s.mustPush("a", "v1", filler("small", 100<<10))
	first := s.backup(to, backup.Options{})
	s.mustPush("a", "v2", filler("large", 1<<20))
	if _, err := backup.Backup(t.Context(), s.source(), to, backup.Options{Temp: t.TempDir()}); !isNoSpace(err) {
		t.Fatalf("on a full disk: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	got, res := restored(t, to, backup.RestoreOptions{})
	if res.Snapshot.Name != first.Snapshot.Name || res.Problems != 0 || got.verify() != nil {
		t.Errorf("restored %+v", res)
	}
	// And a restore onto one.
	small := t.TempDir()
	if err := syscall.Mount("berth-test", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	full := openBlobs(t, small)
	if _, err := backup.Restore(t.Context(), to, full, got.meta, backup.RestoreOptions{Temp: t.TempDir()}); !isNoSpace(err) {
		t.Errorf("a restore onto a full disk: %v", err)
	}
}
