package scrub_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/scrub"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// TestResume stops rounds in their middle, and goes on with new ones: no blob is left
// out, and next to none is read again.
func TestResume(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const n = 700 // more than two pages
	var want []digest.Digest
	for i := range n {
		want = append(want, w.mustPush("a", noise(10, uint64(i))))
	}
	slices.Sort(want)
	for _, stop := range []int{1, 255, 256, 257, 600} {
		w.hooks.hook(func() { w.hooks.opened = nil })
		ctx, cancel := context.WithCancel(t.Context())
		count := 0
		w.hooks.hook(func() {
			w.hooks.open = func(digest.Digest) error {
				if count++; count == stop {
					cancel()
				}
				return nil
			}
		})
		s := w.newScrub(scrub.Options{})
		if _, err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		s.Run(ctx)
		if st := w.status(s); st.Round.Began.IsZero() || st.Running || st.Problem != nil {
			t.Fatalf("stopped at %d: %+v", stop, st)
		}
		if len(w.hooks.opened) != stop {
			t.Errorf("stopped at %d, %d were read", stop, len(w.hooks.opened))
		}
		st := w.round() // with another one
		if st.Round.Last.Blobs != n || st.Problem != nil {
			t.Errorf("stopped at %d and gone on, it has checked %d blobs of %d", stop, st.Round.Last.Blobs, n)
		}
		got := slices.Clone(w.hooks.opened)
		slices.Sort(got)
		if len(got) > n+1 || !slices.Equal(slices.Compact(got), want) {
			t.Errorf("stopped at %d, %d reads were of %d blobs, want %d", stop, len(w.hooks.opened), len(slices.Compact(got)), n)
		}
	}
}

// TestHarmBehind harms what a round has checked that a dead process has left: to go on
// with it reads nothing again, and the round after it finds the harm.
func TestHarmBehind(t *testing.T) {
	for name, left := range map[string]func(last digest.Digest) storage.Scrub{
		"while it reads":    func(last digest.Digest) storage.Scrub { return storage.Scrub{After: string(last)} },
		"when it has read":  func(digest.Digest) storage.Scrub { return storage.Scrub{Listing: true} },
		"when it has ended": func(last digest.Digest) storage.Scrub { return storage.Scrub{Listing: true, After: string(last)} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, t.TempDir())
			data := noise(1000, 1)
			d := w.mustPush("a", data)
			leave := func() {
				state := left(d)
				state.Began = time.Now().Add(-time.Hour)
				if err := w.meta.Update(t.Context(), func(tx storage.Tx) error { return storage.Scrubs.Put(tx, storage.ScrubKey, state) }); err != nil {
					t.Fatal(err)
				}
			}
			leave()
			data[500] ^= 1
			if err := os.WriteFile(w.path(d), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if st := w.round(); len(st.Damaged) > 0 || st.Round.Last.Blobs > 0 {
				t.Errorf("the round that goes on: %+v", st)
			}
			leave()
			if st := w.newRound(); len(st.Damaged) != 1 || st.Damaged[0].Digest != d {
				t.Errorf("a new round: %+v", st)
			}
			w.isUnknown("a", d)
		})
	}
}

// memWorld is a registry in memory.
func memWorld(t *testing.T) (*mem.Blobs, *mem.Meta, *registry.Local) {
	t.Helper()
	blobs, meta := mem.NewBlobs(), mem.NewMeta()
	l, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return blobs, meta, l
}

// TestRate reads no faster than it may, whatever the size of blobs, and another rate
// holds at once. Rounds begin at their time.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs, meta, l := memWorld(t)
		defer l.Close()
		w := &world{t: t, Local: l}
		const large, small = 4 << 20, 64
		w.mustPush("a", noise(large, 1))
		for i := range small {
			w.mustPush("a", noise(100, uint64(i)))
		}
		const rate = 1 << 20
		want := time.Duration(large+small*32<<10) * time.Second / rate // 6 s
		s := scrub.New(blobs, meta, l, scrub.Options{Interval: time.Hour, Rate: rate, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		begin := time.Now()
		last := func() storage.ScrubDone { return w.status(s).Round.Last }
		time.Sleep(want / 2)
		synctest.Wait()
		if st := w.status(s); !st.Running || st.Round.Bytes+st.Round.Blobs == 0 || s.Read() == 0 {
			t.Errorf("after half the time: %+v", st)
		}
		time.Sleep(want/2 + time.Second)
		synctest.Wait()
		if took := last().Finished.Sub(begin); took < want-time.Second || took > want+time.Second {
			t.Errorf("a round took %v, want %v", took, want)
		}
		if next := w.status(s).Next; !next.Equal(begin.Add(time.Hour)) {
			t.Errorf("the next round is to begin %v after the first", next.Sub(begin))
		}
		time.Sleep(time.Hour - time.Since(begin) - time.Second)
		synctest.Wait()
		if w.status(s).Running {
			t.Error("the next round began too early")
		}
		s.Set(time.Hour, 0) // any rate
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := last(); !got.Began.Equal(begin.Add(time.Hour)) || got.Finished.Sub(got.Began) > time.Second {
			t.Errorf("the next round began at %v and took %v", got.Began.Sub(begin), got.Finished.Sub(got.Began))
		}
		s.Set(0, rate)
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		if got := last(); !got.Began.Equal(begin.Add(time.Hour)) {
			t.Error("there was a round although none is to be")
		}
		cancel()
		running.Wait()
	})
}

// TestSaved writes down how far a round is, now and then: who is killed loses little.
func TestSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs, meta, l := memWorld(t)
		defer l.Close()
		w := &world{t: t, Local: l}
		for i := range 64 {
			w.mustPush("a", noise(100, uint64(i)))
		}
		s := scrub.New(blobs, meta, l, scrub.Options{Rate: 16 << 10}) // two seconds for each
		if _, err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		time.Sleep(time.Minute)
		synctest.Wait()
		at := w.status(s).Round.Blobs
		saved := w.status(scrub.New(blobs, meta, l, scrub.Options{})).Round.Blobs // as after a crash
		if at < 25 || saved > at || saved < at-6 {
			t.Errorf("%d blobs are checked, and %d of them written down", at, saved)
		}
		cancel()
		running.Wait()
	})
}

// leak stores bytes behind the metadata's back, as a crash does.
func leak(t *testing.T, b storage.Blobs, data []byte) digest.Digest {
	t.Helper()
	s, err := b.Stage(t.Context(), "leak", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(data)
	d := digest.FromBytes(data)
	if err := errors.Join(err, s.Commit(d), s.Close()); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestLeaked collects what a crash has left, when it is old enough, and not what is
// known, nor what somebody pushes just then.
func TestLeaked(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Hour})
	known := noise(100_000, 1)
	w.mustPush("a", known)
	w.mustPush("a", []byte("{}"))
	if _, err := w.pushManifest("a", manifestOf(known), "v1"); err != nil {
		t.Fatal(err)
	}
	var leaked [][]byte
	for i := range 300 {
		leaked = append(leaked, noise(50+i*200, uint64(i)+10))
		leak(t, w.files, leaked[i])
	}
	there := func(data []byte) bool {
		_, err := w.files.Size(t.Context(), digest.FromBytes(data))
		return err == nil
	}
	w.round()
	w.clock = 23 * time.Hour
	if st := w.round(); st.Round.Last.Leaked != 0 || st.Blobs != 3 {
		t.Errorf("what came a day ago is leaked: %+v", st)
	}
	w.clock = 25 * time.Hour
	plan, err := w.Plan(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if st := w.round(); st.Round.Last.Leaked != 300 || st.Blobs != 303 {
		t.Errorf("%d are leaked, and %d stored, want 300 and 303", st.Round.Last.Leaked, st.Blobs)
	}
	if st := w.round(); st.Round.Last.Leaked != 0 || len(st.Damaged) > 0 {
		t.Errorf("what is taken in leaks again: %+v", st)
	}
	if after, err := w.Plan(t.Context(), false); err != nil || len(after) != len(plan)+300 {
		t.Errorf("collection would take %d, %v, want %d", len(after), err, len(plan)+300)
	}
	w.mustPush("b", leaked[0])
	w.mustPush("b", leaked[299])
	if err := w.Collect(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, data := range leaked {
		if there(data) {
			left++
		}
	}
	if left != 2 || !there(known) {
		t.Errorf("%d of what was leaked is left, want what was pushed, 2", left)
	}
	w.isWhole("b", leaked[0])
	w.isWhole("b", leaked[299])
	w.isWhole("a", known)
	if st := w.round(); st.Blobs != 5 || len(st.Damaged) > 0 {
		t.Errorf("left are %d blobs, and damaged %+v", st.Blobs, st.Damaged)
	}
}

// TestLeakedPush pushes what is just taken in as leaked, between its arrival and the
// transaction that makes it known: the push succeeds, whatever collection does.
func TestLeakedPush(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Hour})
	data := noise(100_000, 1)
	leak(t, w.files, data)
	w.clock = 25 * time.Hour
	w.hooks.hook(func() { w.hooks.committed = func() { w.round() } })
	w.mustPush("a", data)
	if err := w.Collect(t.Context(), true, nil); err != nil {
		t.Fatal(err)
	}
	w.isWhole("a", data)
}

// TestLostRow takes bytes in that a repository needs and of which the metadata has lost
// the row: they are no garbage.
func TestLostRow(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := noise(1000, 1)
	d := w.mustPush("a", data)
	if err := w.meta.Update(t.Context(), func(tx storage.Tx) error {
		return storage.Stored.Delete(tx, storage.Key(storage.DigestPart(d)))
	}); err != nil {
		t.Fatal(err)
	}
	w.SetKeeping(registry.Keeping{Grace: 1000 * time.Hour, Lease: time.Hour})
	w.clock = 25 * time.Hour
	w.round()
	if err := w.Collect(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.files.Size(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// TestTooLong meters a file that has far more bytes than it should have.
func TestTooLong(t *testing.T) {
	w := newWorld(t, t.TempDir())
	d := w.mustPush("a", noise(100_000, 1))
	w.truncate(d, 8<<20)
	s := w.newScrub(scrub.Options{Rate: 16 << 20})
	begin := time.Now()
	if st := w.roundOf(s); len(st.Damaged) != 1 || st.Damaged[0].Kind != storage.DamageSize {
		t.Errorf("damaged: %+v", st.Damaged)
	}
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("8 MiB at 16 MiB a second took %v", took)
	}
}

// TestUnchecked has one blob that nothing can be found out of: it does not hold up the
// others, and is not called damaged.
func TestUnchecked(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var digests []digest.Digest
	for i := range 10 {
		digests = append(digests, w.mustPush("a", noise(100, uint64(i))))
	}
	w.hooks.hook(func() {
		w.hooks.open = func(d digest.Digest) error {
			if d == digests[5] {
				return io.ErrClosedPipe // of a kind that says nothing of the bytes
			}
			return nil
		}
	})
	if st := w.round(); st.Problem != nil || len(st.Damaged) > 0 || st.Round.Last.Blobs != 10 {
		t.Errorf("%+v", st)
	}
}

// TestNoPermission moves away what cannot be opened: a push replaces it.
func TestNoPermission(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := noise(100, 1)
	d := w.mustPush("a", data)
	denied := true
	w.hooks.hook(func() {
		w.hooks.open = func(digest.Digest) error {
			if denied {
				return os.ErrPermission
			}
			return nil
		}
	})
	w.mustPush("a", noise(100, 2))
	if st := w.round(); len(st.Damaged) != 2 || st.Damaged[0].Kind != storage.DamageUnreadable {
		t.Errorf("%+v", st)
	}
	denied = false
	w.isUnknown("a", d)
	w.mustPush("a", data)
	w.isWhole("a", data)
}
