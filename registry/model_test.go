package registry_test

import (
	crand "crypto/rand"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

var (
	soak = flag.Duration("soak", 5*time.Second, "how long TestModel goes on; with -seed too, its run may be cut short")
	seed = flag.Uint64("seed", 0, "of the only run of TestModel; 0 for runs of random seeds")
)

const (
	modelClients = 4
	modelSteps   = 100 // of each client
	modelLease   = time.Hour
	modelServers = 3 // that share a store, where some do
)

var (
	modelRepos   = []string{"a", "b/c", "d"}
	modelKeeping = []registry.Keeping{
		{Grace: 24 * time.Hour, Lease: modelLease, History: 36 * time.Hour},
		{Grace: 24 * time.Hour, Lease: modelLease, Moves: 2},
		{Grace: 5 * time.Minute, Lease: modelLease}, // shorter than the lease
		{Grace: time.Millisecond, Lease: modelLease, History: time.Hour, Moves: 1},
	}
)

// TestModel has clients push, mount, tag, delete and ask at random, while garbage is
// collected and the time jumps. What a client was told must hold, what stays must be
// readable at any time, and at the end there is what the model says and nothing else.
// Where several servers share the store, each client is at another one each time.
// A failure tells the seed, and what was done to the content in question.
func TestModel(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	onDisk := func(t *testing.T) (storage.Blobs, storage.Meta) {
		dir := t.TempDir()
		blobs := must[*fs.Blobs](t)(fs.Open(dir, nil))
		t.Cleanup(func() { _ = blobs.Close() })
		meta := must[*bolt.Meta](t)(bolt.Open(filepath.Join(dir, "meta.db")))
		t.Cleanup(func() { _ = meta.Close() })
		return blobs, meta
	}
	for name, open := range map[string]func(t *testing.T) (storage.Blobs, []storage.Meta){
		"mem": func(*testing.T) (storage.Blobs, []storage.Meta) {
			return mem.NewBlobs(), []storage.Meta{mem.NewMeta()}
		},
		"disk": func(t *testing.T) (storage.Blobs, []storage.Meta) {
			blobs, meta := onDisk(t)
			return blobs, []storage.Meta{meta}
		},
		"servers, mem": func(*testing.T) (storage.Blobs, []storage.Meta) {
			return mem.NewBlobs(), slices.Repeat([]storage.Meta{mem.NewMeta()}, modelServers)
		},
		"servers, disk": func(t *testing.T) (storage.Blobs, []storage.Meta) {
			blobs, meta := onDisk(t)
			return blobs, slices.Repeat([]storage.Meta{struct{ storage.Meta }{meta}}, modelServers)
		},
		"servers, postgres": func(t *testing.T) (storage.Blobs, []storage.Meta) {
			var metas []storage.Meta
			schema := "m" + strings.ToLower(crand.Text())
			for range modelServers {
				meta := must[*postgres.Meta](t)(postgres.Open(t.Context(), postgres.Options{DSN: server.DSN(), Schema: schema}))
				t.Cleanup(func() { _ = meta.Close() })
				metas = append(metas, meta)
			}
			return mem.NewBlobs(), metas
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end, runs := time.Now().Add(*soak), 0
			for ; runs == 0 || *seed == 0 && time.Now().Before(end); runs++ {
				s := *seed
				if s == 0 {
					s = rand.Uint64()
				}
				if !t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
					blobs, metas := open(t)
					newWorld(t, s, blobs, metas).run(end)
				}) {
					t.Fatalf("repeat with -run 'TestModel/%s' -seed %d", name, s)
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// ticking is a clock that goes on a little each time it is read, and jumps.
type ticking struct{ clock }

func (c *ticking) Now() time.Time {
	c.pass(time.Microsecond)
	return c.clock.Now()
}

// world is a registry, and what the model knows of it.
type world struct {
	*registry.Local // one of the servers
	*ticking
	servers []*registry.Local
	metas   []storage.Meta // of the servers
	t       *testing.T
	seed    uint64
	blobs   storage.Blobs
	meta    storage.Meta
	keeping registry.Keeping
	locks   map[string]*repoLocks
	jumps   sync.RWMutex // of the time; see jump

	mu        sync.Mutex
	manifests map[content]*modelManifest
	list      []content         // keys of manifests, in their order
	tags      map[tagged][]move // oldest first
	nodes     map[string]modelNode
	deletes   map[content]int // explicit ones, counted as they begin and as they end
	uses      map[content]int // manifests pushed that need it
	trace     []string
	failed    bool
}

// repoLocks have what the model must know the order of happen one by one: moves of a
// tag, and deletes of manifests, which move any tag.
type repoLocks struct {
	all  sync.RWMutex
	tags [8]sync.Mutex
}

// content is a blob or a manifest in a repository.
type content struct {
	repo   string
	digest digest.Digest
}

type tagged struct{ repo, tag string }

type modelManifest struct {
	data    []byte
	index   bool
	refs    []digest.Digest // blobs, or manifests of an index
	subject digest.Digest
	stable  bool // it is there from now on, and nobody deletes it
}

// move is where a tag pointed from a time on.
type move struct {
	digest digest.Digest
	since  time.Time // or later
	gone   bool      // the manifest was deleted after that
}

type modelNode struct {
	until time.Time
	runs  []content
}

func newWorld(t *testing.T, seed uint64, blobs storage.Blobs, metas []storage.Meta) *world {
	t.Helper()
	w := &world{
		ticking: &ticking{clock{now: time.Unix(1e9, 0)}}, t: t, seed: seed, blobs: blobs, meta: metas[0], metas: metas,
		keeping: modelKeeping[seed%uint64(len(modelKeeping))], locks: map[string]*repoLocks{},
		manifests: map[content]*modelManifest{}, tags: map[tagged][]move{}, nodes: map[string]modelNode{},
		deletes: map[content]int{}, uses: map[content]int{},
	}
	for _, repo := range modelRepos {
		w.locks[repo] = &repoLocks{}
	}
	w.open(24 * time.Hour)
	return w
}

// open opens the registry over the stores.
func (w *world) open(expiry time.Duration) {
	w.t.Helper()
	for _, l := range w.servers {
		l.Close()
	}
	w.servers = nil
	for _, meta := range w.metas {
		l, err := registry.NewLocal(w.t.Context(), w.blobs, meta, registry.Options{Now: w.Now, UploadExpiry: expiry})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(l.Close)
		l.SetKeeping(w.keeping)
		w.servers = append(w.servers, l)
	}
	w.Local = w.servers[0]
}

// run lets clients work, at most until end, and compares what is left with the model.
func (w *world) run(end time.Time) {
	w.t.Helper()
	for i, repo := range modelRepos {
		newModelClient(w, 100+i).stable(repo)
	}
	var clients, others sync.WaitGroup
	for i := range modelClients {
		clients.Go(func() {
			c := newModelClient(w, i)
			for range modelSteps {
				if w.hasFailed() || time.Now().After(end) {
					return
				}
				c.step()
			}
		})
	}
	done := make(chan struct{})
	others.Go(func() { newModelClient(w, 200).collectUntil(done) })
	others.Go(func() { newModelClient(w, 201).readUntil(done) })
	clients.Wait()
	close(done)
	others.Wait()
	if w.t.Failed() {
		return
	}
	w.checkThere("at the end of the work")
	w.checkRows(false)
	if w.t.Failed() {
		return
	}
	w.settle()
	w.checkThere("after all was collected")
	w.checkRows(true)
}

// settle lets all end that ends by time, and collects until nothing is due.
func (w *world) settle() {
	w.t.Helper()
	w.open(time.Nanosecond) // removes upload sessions at once
	for range 12 {
		w.pass(48 * time.Hour)
		if err := w.Collect(w.t.Context(), false, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		sessions, stages := 0, 0
		err := w.meta.View(w.t.Context(), func(tx storage.Tx) error {
			return eachRow(tx, storage.Uploads, 0, func(string, []digest.Digest, storage.Upload) { sessions++ })
		})
		for _, serr := range w.blobs.Stages(w.t.Context()) {
			if stages++; serr != nil {
				w.t.Fatal(serr)
			}
		}
		if err != nil || time.Now().After(end) {
			w.t.Fatalf("%d sessions and %d stages are still there: %v", sessions, stages, err)
		}
		if sessions+stages == 0 {
			return
		}
	}
}

// note writes down what is done.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%v ", w.clock.Now().Sub(time.Unix(1e9, 0)))+fmt.Sprintf(format, args...))
}

func (w *world) hasFailed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// fail fails the test, and tells what was done to some content, and what can have to
// do with that.
func (w *world) fail(about []digest.Digest, format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		return // what comes later comes of it
	}
	w.failed = true
	var lines []string
	for _, line := range w.trace {
		relevant := len(about) == 0
		for _, d := range about {
			relevant = relevant || strings.Contains(line, short(d))
		}
		if relevant {
			lines = append(lines, line)
		}
	}
	w.t.Errorf("seed %d, %+v: %s\n%s", w.seed, w.keeping, fmt.Sprintf(format, args...), strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

// short is what stands for a digest in the trace.
func short(d digest.Digest) string {
	if d == "" {
		return "-"
	}
	return d.Encoded()[:8]
}

func shorts(ds []digest.Digest) string {
	var all []string
	for _, d := range ds {
		all = append(all, short(d))
	}
	return strings.Join(all, " ")
}
