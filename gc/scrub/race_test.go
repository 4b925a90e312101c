package scrub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// TestPushWhileChecked pushes damaged bytes again while they are read for the first
// time: what was acknowledged is not moved away.
func TestPushWhileChecked(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := noise(300_000, 1)
	d := w.mustPush("a", data)
	flip(t, w.path(d))
	pushed := false
	w.hooks.hook(func() {
		w.hooks.open = func(digest.Digest) error { // the scrub has the old file
			if !pushed {
				pushed = true
				w.mustPush("a", data)
			}
			return nil
		}
	})
	if st := w.round(); len(st.Damaged) > 0 || !pushed {
		t.Errorf("damaged: %+v", st.Damaged)
	}
	w.isWhole("a", data)
	if got := w.quarantined(d); got != nil {
		t.Error("bytes were moved away")
	}
}

// TestPushWhileMoved pushes damaged bytes again at the worst moments. Whatever a client
// was told holds: a push that succeeded can be read, and one that did not succeeds the
// second time.
func TestPushWhileMoved(t *testing.T) {
	const after, meanwhile, begun = "made known after the move", "made known before it", "begun during it"
	for _, when := range []string{after, meanwhile, begun} {
		for _, size := range []int{100, 300_000} {
			t.Run(fmt.Sprintf("%s/%d", when, size), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, t.TempDir())
				data := noise(size, 1)
				d := w.mustPush("a", data)
				flip(t, w.path(d))
				var pushing sync.WaitGroup
				var pushErr error
				push := func() { pushing.Go(func() { _, pushErr = w.push("a", data) }) }
				arrived, commit, committed, settled, staged := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
				w.hooks.hook(func() {
					if when == begun {
						w.hooks.staged = func() { close(staged) }
						w.hooks.quarantine = func(digest.Digest) { push(); <-staged }
						return
					}
					w.hooks.commit = func() { close(arrived); <-commit }
					w.hooks.committed = func() {
						close(committed)
						if when == after {
							<-settled
						}
					}
					w.hooks.quarantine = func(digest.Digest) { close(commit); <-committed }
				})
				if when != begun {
					push()
					<-arrived
				}
				st := w.round()
				close(settled)
				pushing.Wait()
				switch {
				case when == begun && pushErr != nil:
					t.Errorf("a push that came in time to wait is told: %v", pushErr)
				case when != begun && !errors.Is(pushErr, registry.ErrUnavailable):
					t.Errorf("a push whose bytes were moved away is told: %v", pushErr)
				case pushErr == nil:
					w.isWhole("a", data)
				case len(st.Damaged) != 1:
					t.Errorf("damaged: %+v", st.Damaged)
				default:
					w.isUnknown("a", d)
				}
				w.mustPush("a", data)
				w.isWhole("a", data)
				if st := w.round(); len(st.Damaged) > 0 {
					t.Errorf("damaged: %+v", st.Damaged)
				}
			})
		}
	}
}

// TestCollectWhileMoved collects damaged bytes while they are moved away, and pushes
// them anew.
func TestCollectWhileMoved(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.SetKeeping(registry.Keeping{Lease: time.Nanosecond})
	data := noise(300_000, 1)
	d := w.mustPush("a", data)
	flip(t, w.path(d))
	w.hooks.hook(func() {
		w.hooks.quarantine = func(digest.Digest) {
			for range 3 {
				if err := w.Collect(t.Context(), true, nil); err != nil {
					t.Error(err)
				}
			}
			if f, err := os.Stat(w.path(d)); err != nil || f.Size() == 0 {
				t.Errorf("bytes that are just moved away were collected: %v", err)
			}
		}
	})
	if st := w.round(); len(st.Damaged) != 1 {
		t.Errorf("damaged: %+v", st.Damaged)
	}
	if err := w.Collect(t.Context(), true, nil); err != nil {
		t.Fatal(err)
	}
	w.clock = 2 * time.Minute
	if err := w.Collect(t.Context(), true, nil); err != nil {
		t.Fatal(err)
	}
	if st := w.round(); len(st.Damaged) != 0 || st.Blobs != 0 {
		t.Errorf("collected, there are %d blobs, and damaged are %+v", st.Blobs, st.Damaged)
	}
	w.mustPush("a", data)
	w.isWhole("a", data)
}

// pusher pushes to a registry, and knows what it was told.
type pusher struct {
	*world
	rand *rand.Rand
	data [][]byte
}

// step does something, and checks what it sees of it.
func (p *pusher) step(repo string) {
	data := p.data[p.rand.IntN(len(p.data))]
	d := digest.FromBytes(data)
	switch p.rand.IntN(5) {
	case 0, 1:
		if _, err := p.push(repo, data); err != nil && !errors.Is(err, registry.ErrUnavailable) {
			p.t.Errorf("push: %v", err)
		}
	case 2:
		if got, err := p.read(repo, d); err == nil && len(got) == len(data) && !bytes.Equal(got, data) {
			p.t.Logf("%s was served damaged before it was found", d) // a client sees that by its digest
		}
	case 3:
		if err := p.DeleteBlob(p.t.Context(), repo, d); err != nil && !errors.Is(err, registry.ErrBlobUnknown) {
			p.t.Errorf("delete: %v", err)
		}
	case 4:
		if _, err := p.MountBlob(p.t.Context(), repo, "", d); err != nil && !errors.Is(err, registry.ErrBlobUnknown) {
			p.t.Errorf("mount: %v", err)
		}
	}
}

// TestAtOnce pushes, reads, mounts, deletes, collects, harms and scrubs at once. In the
// end, after a push of everything, everything is there and whole.
func TestAtOnce(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.SetKeeping(registry.Keeping{Lease: time.Millisecond})
	var data [][]byte
	for i := range 12 {
		data = append(data, noise(200+i*i*1000, uint64(i)))
	}
	end := time.Now().Add(3 * time.Second)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			p := &pusher{w, rand.New(rand.NewPCG(seed, uint64(i))), data}
			for time.Now().Before(end) {
				p.step(fmt.Sprintf("repo%d", i%2))
			}
		})
	}
	all.Go(func() {
		for time.Now().Before(end) {
			if err := w.Collect(t.Context(), true, nil); err != nil {
				t.Errorf("collect: %v", err)
			}
		}
	})
	all.Go(func() {
		r := rand.New(rand.NewPCG(seed, 100))
		for time.Now().Before(end) {
			path := w.path(digest.FromBytes(data[r.IntN(len(data))]))
			if old, err := os.ReadFile(path); err == nil && len(old) > 0 {
				old[r.IntN(len(old))] ^= 1
				_ = os.WriteFile(path+".harm", old, 0o600) // in one step, as a disk does it
				_ = os.Rename(path+".harm", path)
			}
			time.Sleep(time.Millisecond)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	all.Go(func() { w.scrub.Run(ctx) })
	rounds := 0
	for time.Now().Before(end) {
		started, err := w.scrub.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if started {
			rounds++
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	t.Logf("%d rounds", rounds)
	w.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Hour})
	w.round()
	for _, some := range data {
		w.mustPush("repo0", some)
	}
	if st := w.round(); len(st.Damaged) > 0 || st.Problem != nil {
		t.Errorf("damaged: %+v, %v", st.Damaged, st.Problem)
	}
	for _, some := range data {
		w.isWhole("repo0", some)
	}
}

// killed, in the environment, makes the test program scrub a directory until it is
// killed.
const killed = "BERTH_TEST_SCRUB"

func TestMain(m *testing.M) {
	if os.Getenv(killed) == "" {
		os.Exit(m.Run())
	}
	os.Args = append(os.Args[:1], "-test.run=^TestKilled$", "-test.v")
	os.Exit(m.Run())
}

// TestKilled is what is killed: rounds without end, and harm.
func TestKilled(t *testing.T) {
	dir := os.Getenv(killed)
	if dir == "" {
		return // it is started by TestKill
	}
	w := newWorld(t, dir)
	r := rand.New(rand.NewPCG(rand.Uint64(), 1))
	var running sync.WaitGroup
	running.Go(func() { w.scrub.Run(t.Context()) })
	for i := 0; ; i = (i + 1) % killedBlobs {
		if r.IntN(3) == 0 {
			if path := w.path(digest.FromBytes(killedBlob(i))); r.IntN(2) == 0 {
				_ = os.Remove(path)
			} else if old, err := os.ReadFile(path); err == nil {
				old[len(old)/2] ^= 1
				_ = os.WriteFile(path, old, 0o600)
			}
		}
		if _, err := w.scrub.Start(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := w.push("a", killedBlob(i)); err != nil && !errors.Is(err, registry.ErrUnavailable) {
			t.Error(err)
		}
		if i == 5 {
			_ = os.WriteFile(filepath.Join(dir, "going"), nil, 0o600)
		}
	}
}

const killedBlobs = 20

func killedBlob(i int) []byte { return noise(1000+i*7000, uint64(i)) }

// TestKill kills a process in the middle of rounds: whatever it leaves, the next one
// finishes, finds what was harmed before it began, and everything can be pushed and read.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		_ = os.Remove(filepath.Join(dir, "going"))
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), killed+"="+dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the process", func() bool {
			_, err := os.Stat(filepath.Join(dir, "going"))
			return err == nil
		})
		time.Sleep(rand.N(100 * time.Millisecond)) // any moment will do
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if bytes.Contains(out.Bytes(), []byte("--- FAIL")) || bytes.Contains(out.Bytes(), []byte("panic")) {
			t.Fatalf("it said %s", out.String())
		}
		w := newWorld(t, dir)
		st := w.newRound()
		for _, blob := range st.Damaged {
			if blob.Moving {
				t.Errorf("after kill %d, %s is still about to be moved", i, blob.Digest)
			}
		}
		damaged := map[digest.Digest]bool{}
		for _, blob := range st.Damaged {
			damaged[blob.Digest] = true
		}
		for i := range killedBlobs {
			d := digest.FromBytes(killedBlob(i))
			if _, err := w.StatBlob(t.Context(), "a", d); err == nil && !damaged[d] {
				w.isWhole("a", killedBlob(i))
			}
			w.mustPush("a", killedBlob(i))
			w.isWhole("a", killedBlob(i))
		}
		if st := w.round(); len(st.Damaged) > 0 || st.Problem != nil {
			t.Errorf("healed, damaged are %+v, %v", st.Damaged, st.Problem)
		}
		w.end()
	}
}
