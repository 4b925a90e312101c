package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// kinds are the stores that the tests run with. Each has two servers' worth of metadata,
// which is the same one where no two can have it.
var kinds = map[string]func(*testing.T) [2]storage.Meta{
	"mem": func(*testing.T) [2]storage.Meta {
		m := mem.NewMeta()
		return [2]storage.Meta{m, m}
	},
	"bolt": func(t *testing.T) [2]storage.Meta {
		m, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
		must(t, err)
		t.Cleanup(func() { must(t, m.Close()) })
		return [2]storage.Meta{m, m}
	},
	"postgres": func(t *testing.T) (both [2]storage.Meta) {
		dsn := postgrestest.Shared(t)
		for i := range both {
			m, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, MaxConns: 4})
			must(t, err)
			t.Cleanup(func() { must(t, m.Close()) })
			both[i] = m
		}
		return both
	},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a registry with a store of rollouts, twice.
type world struct {
	t      testing.TB
	local  [2]*registry.Local
	stores [2]*rollout.Store
	metas  [2]storage.Meta
	clock  *atomic.Int64 // nanoseconds that were added to the time
	wrap   *tags
}

type actorKey struct{}

var stack = rollout.Ref{Repo: "stacks/shop", Tag: "prod"}

func newWorld(t testing.TB, metas [2]storage.Meta) *world {
	w := &world{t: t, metas: metas, clock: new(atomic.Int64)}
	blobs := mem.NewBlobs()
	now := func() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) }
	for i, meta := range metas {
		var err error
		w.local[i], err = registry.NewLocal(t.Context(), blobs, meta, registry.Options{
			Now: now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Actor: func(ctx context.Context) string { name, _ := ctx.Value(actorKey{}).(string); return name },
		})
		must(t, err)
		t.Cleanup(w.local[i].Close)
		w.wrap = &tags{Tags: w.local[i]}
		w.stores[i] = rollout.NewStore(meta, w.wrap, rollout.Options{
			Now: now, As: func(ctx context.Context) context.Context { return context.WithValue(ctx, actorKey{}, "berth rollout") },
		})
	}
	return w
}

// tags are those of a registry, whose moves may fail.
type tags struct {
	rollout.Tags
	mu   sync.Mutex
	fail error
}

func (t *tags) MoveTag(ctx context.Context, repo, tag string, from, to digest.Digest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		return t.fail
	}
	return t.Tags.MoveTag(ctx, repo, tag, from, to)
}

// push pushes a version of the stack with a policy.
func (w *world) push(name, policy string) string {
	w.t.Helper()
	repo, config := stack.Repo, []byte(`{}`)
	_, err := w.local[0].PushBlob(w.t.Context(), repo, digest.FromBytes(config), strings.NewReader(string(config)))
	must(w.t, err)
	annotations := map[string]string{"name": name}
	if policy != "" {
		annotations[rollout.Annotation] = policy
	}
	data, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/vnd.docker.compose.project",
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest.FromBytes(config), "size": len(config)},
		"layers": []any{}, "annotations": annotations,
	})
	must(w.t, err)
	d := digest.FromBytes(data)
	ctx := context.WithValue(w.t.Context(), actorKey{}, "alice")
	_, err = w.local[0].PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: d, Tags: []string{stack.Tag}})
	must(w.t, err)
	return d.String()
}

// report is one of a node that runs something.
func report(node, running string) rollout.Report {
	return rollout.Report{Node: node, State: rollout.NodeRunning, Running: running, Interval: rollout.Duration(30 * time.Second), By: "fleet"}
}

func failed(node, running, target string) rollout.Report {
	r := report(node, running)
	r.State, r.Target, r.Since, r.Error, r.Log = rollout.NodeFailed, target, time.Now(), "web: unhealthy", []string{"panic: \x1b[31mno", "exit 1"}
	return r
}

func (w *world) follow(r rollout.Report) rollout.Answer {
	w.t.Helper()
	a, err := w.stores[0].Follow(w.t.Context(), stack, r)
	must(w.t, err)
	return a
}

func (w *world) status() rollout.Status {
	w.t.Helper()
	s, err := w.stores[1].Status(w.t.Context(), stack)
	must(w.t, err)
	return s
}

// converge has nodes report, each by itself and at the store of one server or the other,
// and do what they are told, until all run want. It returns how many deployed at most.
func (w *world) converge(n int, from, want string, bad string) (most int64) {
	var deploying, peak atomic.Int64
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			r, end := report(fmt.Sprintf("node-%02d", i), from), time.Now().Add(time.Minute)
			for time.Now().Before(end) {
				a, err := w.stores[i%2].Follow(w.t.Context(), stack, r)
				switch {
				case err != nil:
					w.t.Error(err)
					return
				case a.Digest == r.Running && r.Running == want && a.Tag == want:
					return
				case a.Digest == r.Running:
					time.Sleep(2 * time.Millisecond)
					continue
				}
				now := deploying.Add(1)
				for p := peak.Load(); now > p && a.Rollout.State == rollout.Running && !peak.CompareAndSwap(p, now); p = peak.Load() {
				}
				r.State, r.Target, r.Since = rollout.NodeDeploying, a.Digest, time.Now()
				if _, err := w.stores[(i+1)%2].Follow(w.t.Context(), stack, r); err != nil {
					w.t.Error(err)
				}
				deploying.Add(-1)
				if a.Digest == bad {
					r.State, r.Since = rollout.NodeFailed, time.Now()
				} else {
					r.State, r.Running, r.Target = rollout.NodeRunning, a.Digest, ""
				}
			}
			w.t.Errorf("node %d does not come to run %s", i, want)
		})
	}
	running.Wait()
	return peak.Load()
}

// TestFleet has nodes converge at the same time by two servers, with each store; a bad
// version stops at the first of them, and all return.
func TestFleet(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, open(t))
			one := w.push("1", `{"parallel":3}`)
			if most := w.converge(12, "", one, ""); most > 3 || most < 1 {
				t.Errorf("%d deployed at once", most)
			}
			if s := w.status(); s.State != rollout.Done || s.By != "alice" || s.Progress.Done != 12 {
				t.Errorf("%+v", s.Summary)
			}
			two := w.push("2", `{"parallel":2}`)
			w.converge(12, one, one, two)
			s := w.status()
			if s.State != rollout.Failed || s.Digest != one || s.Bad != two || s.Names != one || s.By != "berth rollout" {
				t.Errorf("%+v", s.Summary)
			}
			var moves []string
			for m, err := range w.local[0].History(t.Context(), stack.Repo, stack.Tag) {
				must(t, err)
				moves = append(moves, m.By)
			}
			if !slices.Equal(moves, []string{"alice", "alice", "berth rollout"}) {
				t.Errorf("the tag was moved by %q", moves)
			}
			if f := s.LastFailure; f == nil || f.Digest != two || f.Reason != "stopped after 1 failure" || len(f.Nodes) == 0 || f.Nodes[0].Error != "failed" || f.At.IsZero() {
				t.Errorf("what failed last is %+v", f)
			}
			three := w.push("3", `{"parallel":"50%"}`)
			if most := w.converge(12, one, three, ""); most > 6 {
				t.Errorf("%d deployed at once", most)
			}
			if s := w.status(); s.LastFailure != nil {
				t.Errorf("after another version what failed last is %+v", s.LastFailure)
			}
		})
	}
}

// TestLastFailure tells with each store, and after a restart, why the nodes have returned,
// with the log; and removes that with the last of the tag.
func TestLastFailure(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, open(t))
			one := w.push("1", "")
			w.follow(report("a", one))
			two := w.push("2", "")
			w.follow(report("a", one))
			r := failed("a", one, two)
			r.Error = "web: \x1b[2Junhealthy\n" + strings.Repeat("x", 2*rollout.MaxError)
			w.follow(r)
			w.follow(report("a", one)) // it has forgotten
			w.stores[1] = rollout.NewStore(w.metas[1], w.local[1], rollout.Options{})
			s := w.status()
			if n := s.Nodes[0]; n.Failed || n.Error != "" || s.Bad != two {
				t.Errorf("%+v", s)
			}
			f := s.LastFailure
			if f == nil || f.Digest != two || f.Reason != "stopped after 1 failure" || f.More != 0 || len(f.Nodes) != 1 {
				t.Fatalf("%+v", f)
			}
			if n := f.Nodes[0]; n.Name != "a" || !strings.HasPrefix(n.Error, "web:  [2Junhealthy xxx") || len(n.Error) > rollout.MaxError || !slices.Equal(n.Log, []string{"panic:  [31mno", "exit 1"}) || time.Since(n.At) > time.Minute {
				t.Errorf("%+v", n)
			}
			data, err := json.Marshal(s)
			must(t, err)
			if !strings.Contains(string(data), `"last_failure":{"digest":"`+two+`"`) {
				t.Errorf("%s", data)
			}

			w.clock.Add(int64(rollout.KeepNodes + time.Hour))
			must(t, w.stores[0].Sweep(t.Context()))
			// As a server leaves it that knows of none.
			must(t, w.metas[0].Update(t.Context(), func(tx storage.Tx) error {
				return storage.RolloutFailures.Put(tx, storage.Key("other", "tag"), storage.RolloutFailure{Digest: two})
			}))
			must(t, w.stores[0].Sweep(t.Context()))
			must(t, w.metas[1].View(t.Context(), func(tx storage.Tx) error {
				for e, err := range storage.RolloutFailures.Scan(tx, nil, nil) {
					t.Errorf("%q is left, %v", e.Key, err)
				}
				return nil
			}))
		})
	}
}

// TestMoveBackFails has a rollout say so, and pause, if the tag cannot be moved back; it
// is tried again if that may pass.
func TestMoveBackFails(t *testing.T) {
	w := newWorld(t, kinds["mem"](t))
	one := w.push("1", "")
	w.follow(report("a", one))
	two := w.push("2", "")
	w.follow(report("a", one))
	w.stores[0] = w.stores[1] // the one that can fail
	w.wrap.fail = registry.ErrUnavailable.With("not now")
	if _, err := w.stores[0].Follow(t.Context(), stack, failed("a", one, two)); !errors.Is(err, registry.ErrUnavailable) {
		t.Fatal(err)
	}
	w.wrap.fail = nil // as after a crash between the two transactions
	if a := w.follow(report("b", one)); a.Digest != one || a.Tag != one || a.Rollout.State != rollout.Failed {
		t.Errorf("%+v", a)
	}
	// Once more, with a tag that became immutable.
	three := w.push("3", "")
	w.follow(report("a", one))
	w.local[1].SetImmutable(func(string, string) bool { return true })
	r := failed("a", one, three)
	w.follow(r)
	if a := w.follow(report("b", one)); a.Digest != one || a.Tag != three || !strings.Contains(a.Reason, "immutable") {
		t.Errorf("%+v", a)
	}
	s := w.status()
	if s.State != rollout.Paused || s.Digest != three || !strings.HasPrefix(s.Reason, "stopped after 1 failure; the tag cannot be moved back: ") {
		t.Errorf("%+v", s.Summary)
	}
	if n := s.Nodes[0]; !n.Failed || n.Error != "web: unhealthy" || !slices.Equal(n.Log, []string{"panic:  [31mno", "exit 1"}) {
		t.Errorf("%+v", n)
	}
	if err := w.stores[0].Undo(t.Context(), stack); !errors.Is(err, registry.ErrTagImmutable) {
		t.Errorf("undo: %v", err)
	}
	must(t, w.stores[0].Resume(t.Context(), stack))
	if a := w.follow(r); a.Digest != three {
		t.Errorf("%+v", a)
	}
}

// TestSteer pauses, resumes and undoes.
func TestSteer(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, open(t))
			ctx, s := t.Context(), w.stores[1]
			for what, err := range map[string]error{"pause": s.Pause(ctx, stack, "bob"), "resume": s.Resume(ctx, stack), "undo": s.Undo(ctx, stack)} {
				if !errors.Is(err, rollout.ErrUnknown) {
					t.Errorf("%s of nothing: %v", what, err)
				}
			}
			if a := w.follow(report("a", "")); a.Digest != "" || a.Reason != "there is no such tag" {
				t.Errorf("%+v", a)
			}
			one := w.push("1", "")
			if a := w.follow(report("a", one)); a.Digest != one || a.Rollout.State != rollout.Done {
				t.Errorf("%+v", a)
			}
			if err := s.Undo(ctx, stack); !errors.Is(err, rollout.ErrState) {
				t.Errorf("undo of the first: %v", err)
			}
			two := w.push("2", "")
			must(t, s.Pause(ctx, stack, "bob")) // before any node has seen it
			if a := w.follow(report("a", one)); a.Digest != one || a.Reason != "paused" {
				t.Errorf("%+v", a)
			}
			if st := w.status(); st.State != rollout.Paused || st.PausedBy != "bob" || st.Digest != two || st.Previous != one || st.Nodes[0].Waits != "paused" {
				t.Errorf("%+v", st)
			}
			must(t, s.Resume(ctx, stack))
			if a := w.follow(report("a", one)); a.Digest != two {
				t.Errorf("%+v", a)
			}
			if st := w.status(); st.Nodes[0].Until == nil || st.Progress.Deploying != 1 {
				t.Errorf("%+v", st)
			}
			must(t, s.Undo(context.WithValue(ctx, actorKey{}, "bob"), stack))
			if st := w.status(); st.State != rollout.Undone || st.Names != one || st.Bad != two || st.By != "bob" {
				t.Errorf("%+v", st.Summary)
			}
			if err := s.Undo(ctx, stack); !errors.Is(err, rollout.ErrState) {
				t.Errorf("undo twice: %v", err)
			}
			list, more, err := s.List(ctx, func(repo string) bool { return repo == stack.Repo })
			if err != nil || more || len(list) != 1 || list[0].State != rollout.Undone {
				t.Errorf("%+v, %v", list, err)
			}
			if list, _, err := s.List(ctx, func(string) bool { return false }); err != nil || len(list) != 0 {
				t.Errorf("%+v, %v", list, err)
			}
		})
	}
}

// TestReports refuses what is not as it should be, and what is not the caller's.
func TestReports(t *testing.T) {
	w := newWorld(t, kinds["mem"](t))
	one := w.push("1", "")
	w.follow(report("a", one))
	for what, change := range map[string]func(*rollout.Report){
		"node": func(r *rollout.Report) { r.Node = "../a" }, "running": func(r *rollout.Report) { r.Running = "x" },
		"state": func(r *rollout.Report) { r.State = "happy" }, "target": func(r *rollout.Report) { r.State = rollout.NodeDeploying },
		"since":    func(r *rollout.Report) { r.State, r.Target = rollout.NodeFailed, one },
		"interval": func(r *rollout.Report) { r.Interval = rollout.Duration(2 * time.Hour) },
		"labels":   func(r *rollout.Report) { r.Labels = map[string]string{strings.Repeat("x", 300): ""} },
	} {
		r := report("b", "")
		change(&r)
		if _, err := w.stores[0].Follow(t.Context(), stack, r); !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), what+": ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := report("a", one)
	other.By = "mallory"
	if _, err := w.stores[0].Follow(t.Context(), stack, other); !errors.Is(err, rollout.ErrTaken) {
		t.Errorf("another account: %v", err)
	}
	w.wrap.fail = nil
	elsewhere := rollout.Ref{Repo: stack.Repo, Tag: "other"}
	if _, err := w.stores[0].Follow(t.Context(), elsewhere, other); !errors.Is(err, rollout.ErrTaken) {
		t.Errorf("another account, by another tag: %v", err)
	}
	long := failed("a", one, one)
	long.Error, long.Log = strings.Repeat("é", rollout.MaxError), []string{"first", strings.Repeat("x", rollout.MaxLog), "last"}
	w.follow(long)
	n := w.status().Nodes[0]
	if len(n.Error) > rollout.MaxError || len(n.Log) != 2 || n.Log[1] != "last" || len(n.Log[0]) >= rollout.MaxLog {
		t.Errorf("an error of %d bytes, %d lines of log", len(n.Error), len(n.Log))
	}
	w.clock.Store(int64(2 * time.Minute))
	if _, err := w.stores[0].Follow(t.Context(), stack, other); err != nil {
		t.Errorf("another account, of a node that is gone: %v", err)
	}
	_, _, err := w.local[0].ReportRunning(t.Context(), registry.Report{Node: "c", By: "alice", TTL: time.Hour})
	must(t, err)
	if _, err := w.stores[0].Follow(t.Context(), stack, report("c", one)); !errors.Is(err, rollout.ErrTaken) {
		t.Errorf("a node that another account reports for: %v", err)
	}
}

// TestQuiet has a node that says the same again and again be there all the time, and be
// told what it would be told if it said something else.
func TestQuiet(t *testing.T) {
	w := newWorld(t, kinds["mem"](t))
	one := w.push("1", "")
	r := report("a", one)
	r.Labels, r.Since = map[string]string{"x": "y"}, time.Now()
	first := w.follow(r)
	for range 10 {
		w.clock.Add(int64(40 * time.Second))
		if a := w.follow(r); a != first {
			t.Fatalf("%+v, then %+v", first, a)
		}
		if s := w.status(); s.Progress.Silent != 0 {
			t.Fatalf("%+v", s)
		}
	}
	other := r
	other.Labels = map[string]string{"x": "z"}
	if a := w.follow(other); a != first || w.status().Nodes[0].Labels["x"] != "z" {
		t.Errorf("%+v", w.status())
	}
	w.push("2", "")
	if a := w.follow(other); a.Digest == one {
		t.Errorf("%+v", a)
	}
}

// TestTooMany has no more nodes follow a tag than may, and makes room of those that are
// gone.
func TestTooMany(t *testing.T) {
	w := newWorld(t, kinds["mem"](t))
	one := w.push("1", "")
	must(t, w.metas[0].Update(t.Context(), func(tx storage.Tx) error {
		for i := range rollout.MaxNodes {
			name := fmt.Sprintf("x%04d", i)
			if err := errors.Join(
				storage.Followers.Put(tx, storage.Key(stack.Repo, stack.Tag, name), storage.Follower{State: "running", Running: one, Interval: time.Minute, Heard: time.Now()}),
				storage.Followed.Put(tx, storage.Key(name, stack.Repo, stack.Tag), storage.Mark{})); err != nil {
				return err
			}
		}
		for i := range rollout.MaxRefs {
			if err := storage.Followed.Put(tx, storage.Key("busy", "r", fmt.Sprint("t", i)), storage.Mark{}); err != nil {
				return err
			}
		}
		return nil
	}))
	if _, err := w.stores[0].Follow(t.Context(), stack, report("a", one)); !errors.Is(err, rollout.ErrMany) {
		t.Errorf("%v", err)
	}
	w.clock.Store(int64(10 * time.Minute))
	w.follow(report("a", one))
	if s := w.status(); len(s.Nodes) != 1 {
		t.Errorf("%d nodes", len(s.Nodes))
	}
	if _, err := w.stores[0].Follow(t.Context(), stack, report("busy", one)); !errors.Is(err, rollout.ErrMany) {
		t.Errorf("%v", err)
	}
}

// TestKept has what nodes may return to be no garbage, and forgets all in the end.
func TestKept(t *testing.T) {
	w := newWorld(t, kinds["mem"](t))
	w.local[0].SetKeeping(registry.Keeping{}) // nothing is kept for its own sake
	has := func(d string) bool {
		_, err := w.local[0].StatManifest(t.Context(), stack.Repo, registry.Reference{Digest: digest.Digest(d)})
		return err == nil
	}
	collect := func() {
		t.Helper()
		w.clock.Add(int64(2 * time.Hour))
		for range 3 {
			must(t, w.local[0].Collect(t.Context(), true, func(registry.Collected) {}))
			w.clock.Add(int64(2 * time.Minute))
		}
	}
	one := w.push("1", "")
	w.follow(report("a", one))
	two := w.push("2", "")
	w.follow(report("a", one))
	collect()
	if !has(one) {
		t.Fatal("what nodes may return to was collected")
	}
	w.follow(report("a", two)) // done
	three := w.push("3", "")
	w.follow(report("a", two))
	collect()
	if has(one) || !has(two) || !has(three) {
		t.Errorf("kept: %v %v %v", has(one), has(two), has(three))
	}
	if n, err := w.stores[0].Forget(t.Context(), "a"); n != 1 || err != nil {
		t.Errorf("forgot %d, %v", n, err)
	}
	w.clock.Add(int64(rollout.KeepNodes))
	must(t, w.stores[0].Sweep(t.Context()))
	if _, err := w.stores[0].Status(t.Context(), stack); !errors.Is(err, rollout.ErrUnknown) {
		t.Errorf("%v", err)
	}
	collect()
	if has(two) {
		t.Error("what nobody may return to any more is kept")
	}
	rows := 0
	must(t, w.metas[0].View(t.Context(), func(tx storage.Tx) error {
		for _, table := range []string{storage.Rollouts.Name(), storage.Followers.Name(), storage.FollowerLogs.Name(), storage.RolloutFailures.Name(), storage.Followed.Name(), storage.Returns.Name()} {
			for _, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				rows++
			}
		}
		return nil
	}))
	if rows != 0 {
		t.Errorf("%d rows are left", rows)
	}
}
