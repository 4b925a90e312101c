package retention_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a registry whose tags a Keeper keeps.
type world struct {
	*registry.Local
	*clock
	t      testing.TB
	meta   storage.Meta
	pulls  *retention.Pulls
	keeper *retention.Keeper
}

func newWorld(t testing.TB, meta storage.Meta, specs ...retention.Spec) *world {
	t.Helper()
	w := &world{clock: &clock{now: start}, t: t, meta: meta}
	var err error
	if w.Local, err = registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{Now: w.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.pulls = retention.NewPulls(meta, retention.PullOptions{Now: w.Now})
	w.watched(start)
	w.keeper = retention.New(meta, w.Local, retention.Options{Rules: rulesOf(t, specs...), Now: w.Now, Pulls: w.pulls})
	return w
}

// watched has it written down since when pulls are recorded.
func (w *world) watched(since time.Time) {
	w.t.Helper()
	text, err := since.MarshalText()
	if err == nil {
		err = w.meta.Update(w.t.Context(), func(tx storage.Tx) error {
			return storage.Settings.Put(tx, storage.Key("pulls-recorded-since"), storage.Setting{Value: text})
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func rulesOf(t testing.TB, specs ...retention.Spec) (rules []retention.Rule) {
	for _, s := range specs {
		rules = append(rules, rule(t, s))
	}
	return rules
}

func openBolt(t testing.TB) storage.Meta {
	t.Helper()
	m, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// push pushes an image with tags, and returns its digest.
func (w *world) push(repo, content string, tags ...string) digest.Digest {
	w.t.Helper()
	ctx := w.t.Context()
	config, err := w.PushBlob(ctx, repo, digest.FromString("{}"), strings.NewReader("{}"))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(repo, fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"content":%q}}`,
		config.Digest, content), tags...)
}

func (w *world) index(repo string, child digest.Digest, tags ...string) digest.Digest {
	w.t.Helper()
	desc, err := w.StatManifest(w.t.Context(), repo, registry.Reference{Digest: child})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(repo, fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		desc.MediaType, child, desc.Size), tags...)
}

func (w *world) put(repo, data string, tags ...string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(data)
	if _, err := w.PushManifest(w.t.Context(), repo, registry.ManifestPush{Data: []byte(data), Digest: d, Tags: tags}); err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) pull(repo string, ref registry.Reference) {
	w.t.Helper()
	if _, _, err := w.pulls.Wrap(w.Local).Manifest(w.t.Context(), repo, ref); err != nil {
		w.t.Fatal(err)
	}
}

// tags are the tags that a repository has.
func (w *world) tags(repo string) string {
	w.t.Helper()
	var tags []string
	for tag, err := range w.Tags(w.t.Context(), repo, "") {
		if err != nil && !errors.Is(err, registry.ErrNameUnknown) {
			w.t.Fatal(err)
		}
		tags = append(tags, tag)
	}
	return strings.Join(tags, " ")
}

// apply applies the rules, and checks that what Plan said is done. It returns what
// was removed.
func (w *world) apply() string {
	w.t.Helper()
	var planned, removed []string
	for v, err := range w.keeper.Plan(w.t.Context(), retention.Scope{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		planned = append(planned, v.Repo+":"+v.Name)
	}
	done, err := w.keeper.Apply(w.t.Context(), retention.Scope{}, func(some []retention.Verdict, _ retention.Progress) {
		for _, v := range some {
			removed = append(removed, v.Repo+":"+v.Name)
		}
	})
	if err != nil || done.Removed != int64(len(removed)) || done.Spared != 0 {
		w.t.Fatalf("%+v, %v", done, err)
	}
	if !slices.Equal(planned, removed) {
		w.t.Fatalf("planned %v, removed %v", planned, removed)
	}
	return strings.Join(removed, " ")
}

func (w *world) want(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func TestApply(t *testing.T) {
	for name, open := range map[string]func(testing.TB) storage.Meta{
		"mem": func(testing.TB) storage.Meta { return mem.NewMeta() }, "bolt": openBolt,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open(t), retention.Spec{Repos: in("ci/"), Tags: "pr-.*", Last: 2})
			for i := range 5 {
				w.push("ci/web", fmt.Sprint(i), fmt.Sprintf("pr-%d", i))
				w.pass(time.Minute)
			}
			w.push("ci/web", "0", "main", "v1")
			w.push("other", "0", "pr-1", "pr-2", "pr-3")
			w.want("removed", w.apply(), "ci/web:pr-0 ci/web:pr-1 ci/web:pr-2")
			w.want("left", w.tags("ci/web"), "main pr-3 pr-4 v1")
			w.want("left", w.tags("other"), "pr-1 pr-2 pr-3")
			w.want("removed again", w.apply(), "")
			// The history tells of it, so that it can be taken back.
			var last storage.TagMove
			err := w.meta.View(t.Context(), func(tx storage.Tx) error {
				for e, err := range storage.History.Scan(tx, storage.Key("ci/web", "pr-0", ""), nil) {
					if err != nil {
						return err
					}
					last = e.Value
				}
				return nil
			})
			if err != nil || last.Digest != "" || !last.Moved.Equal(w.Now()) {
				t.Errorf("history: %+v, %v", last, err)
			}
		})
	}
}

// A push that moves nothing is a push.
func TestPushedAgain(t *testing.T) {
	w := newWorld(t, openBolt(t), retention.Spec{PushedWithin: 2 * day})
	w.push("r", "same", "nightly")
	w.push("r", "other", "old")
	w.pass(day)
	w.push("r", "same", "nightly")
	w.pass(day + time.Hour)
	w.want("removed", w.apply(), "r:old")
	w.pass(day)
	w.want("removed", w.apply(), "r:nightly")
}

func TestImmutableAndRunning(t *testing.T) {
	w := newWorld(t, openBolt(t), retention.Spec{PushedWithin: day})
	w.SetImmutable(func(_, tag string) bool { return tag == "v1" })
	w.push("r", "1", "v1", "latest")
	image := w.push("r", "2", "runs")
	child := w.push("r", "3", "child")
	w.index("r", child, "index")
	w.push("r", "4", "gone")
	err := w.meta.Update(t.Context(), func(tx storage.Tx) error {
		lease := storage.NodeLease{Until: w.Now().Add(10 * day)}
		return errors.Join(
			storage.RunningOn.Put(tx, storage.Key(storage.DigestPart(image), "node"), lease),
			storage.RunningOn.Put(tx, storage.Key(storage.DigestPart(child), "node"), lease))
	})
	if err != nil {
		t.Fatal(err)
	}
	w.pass(2 * day)
	by := map[string]retention.Criterion{}
	for v, err := range w.keeper.Plan(t.Context(), retention.Scope{Kept: true}) {
		if err != nil {
			t.Fatal(err)
		}
		by[v.Name] = v.By
	}
	want := map[string]retention.Criterion{
		"v1": retention.ByImmutability, "latest": retention.ByNothing, "runs": retention.ByNode, "child": retention.ByNode,
		"index": retention.ByNode, "gone": retention.ByNothing,
	}
	if !maps.Equal(by, want) {
		t.Errorf("got %v, want %v", by, want)
	}
	w.want("removed", w.apply(), "r:gone r:latest")
	w.pass(9 * day)
	w.want("removed", w.apply(), "r:child r:index r:runs")
	w.want("left", w.tags("r"), "v1")
}

// What happens to a tag between plan and removal counts.
func TestSpared(t *testing.T) {
	w := newWorld(t, openBolt(t))
	reached := func(do func()) registryFunc {
		return registryFunc{w.Local, func() { do() }}
	}
	var d digest.Digest
	for name, do := range map[string]func(){
		"moved":  func() { w.push("r", "new", "tag") },
		"pushed": func() { w.pass(time.Second); w.push("r", "old", "tag") },
		"pulled": func() {
			w.pull("r", registry.Reference{Tag: "tag"})
			if err := w.pulls.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"pulled by digest": func() {
			w.pull("r", registry.Reference{Digest: d})
			if err := w.pulls.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"run": func() {
			if err := w.meta.Update(t.Context(), func(tx storage.Tx) error {
				return storage.RunningOn.Put(tx, storage.Key(storage.DigestPart(d), "node"), storage.NodeLease{Until: w.Now().Add(time.Hour)})
			}); err != nil {
				t.Error(err)
			}
		},
		"immutable": func() { w.SetImmutable(func(string, string) bool { return true }) },
		"deleted": func() {
			if err := w.DeleteTag(t.Context(), "r", "tag"); err != nil {
				t.Error(err)
			}
			w.push("r", "old", "tag")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.SetImmutable(func(string, string) bool { return false })
			w.pass(time.Hour)
			d = w.push("r", "old", "tag")
			w.pass(40 * day)
			k := retention.New(w.meta, reached(do), retention.Options{Rules: rulesOf(t, retention.Spec{PulledWithin: day}), Now: w.Now})
			done, err := k.Apply(t.Context(), retention.Scope{}, nil)
			if err != nil || done != (retention.Progress{Tags: 1, Spared: 1}) {
				t.Errorf("%+v, %v", done, err)
			}
			w.want("left", w.tags("r"), "tag")
		})
	}
}

// registryFunc does something before tags are removed.
type registryFunc struct {
	*registry.Local
	before func()
}

func (r registryFunc) DeleteTagsIf(ctx context.Context, repo string, tags []string, ok func(storage.Tx, string, storage.Tag) (bool, error)) ([]string, error) {
	r.before()
	return r.Local.DeleteTagsIf(ctx, repo, tags, ok)
}

// Rules that change while others are applied stop these.
func TestRulesChange(t *testing.T) {
	w := newWorld(t, mem.NewMeta())
	for i := range 250 {
		w.push("r", "x", fmt.Sprintf("t%d", i))
	}
	w.pass(2 * day)
	var k *retention.Keeper
	k = retention.New(w.meta, registryFunc{w.Local, func() { k.SetRules(nil) }}, retention.Options{Rules: rulesOf(t, retention.Spec{PushedWithin: day}), Now: w.Now})
	done, err := k.Apply(t.Context(), retention.Scope{}, nil)
	if !errors.Is(err, retention.ErrRulesChanged) || done.Removed != 100 {
		t.Errorf("%+v, %v", done, err)
	}
}

// A failure of the store stops it; what was not done is done the next time.
func TestApplyFails(t *testing.T) {
	w := newWorld(t, mem.NewMeta())
	for i := range 250 {
		w.push("r", "x", fmt.Sprintf("t%d", i))
	}
	w.pass(2 * day)
	calls, failure := 0, errors.New("disk on fire")
	k := retention.New(w.meta, failing{w.Local, func() error {
		if calls++; calls == 2 {
			return failure
		}
		return nil
	}}, retention.Options{Rules: rulesOf(t, retention.Spec{PushedWithin: day}), Now: w.Now})
	done, err := k.Apply(t.Context(), retention.Scope{}, nil)
	if !errors.Is(err, failure) || done.Removed != 100 {
		t.Errorf("%+v, %v", done, err)
	}
	done, err = k.Apply(t.Context(), retention.Scope{}, nil)
	if err != nil || done.Removed != 150 {
		t.Errorf("%+v, %v", done, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Apply(ctx, retention.Scope{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

type failing struct {
	*registry.Local
	fail func() error
}

func (r failing) DeleteTagsIf(ctx context.Context, repo string, tags []string, ok func(storage.Tx, string, storage.Tag) (bool, error)) ([]string, error) {
	if err := r.fail(); err != nil {
		return nil, err
	}
	return r.Local.DeleteTagsIf(ctx, repo, tags, ok)
}

// Run applies the rules a minute after the start, every hour, and a minute after a
// change.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := mem.NewMeta()
		local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		w := &world{Local: local, t: t, meta: meta, clock: &clock{now: time.Now()}}
		w.keeper = retention.New(meta, local, retention.Options{Rules: rulesOf(t, retention.Spec{Last: 1})})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.keeper.Run(ctx) })
		defer running.Wait()
		defer cancel()
		add := func(tags ...string) {
			for _, tag := range tags {
				time.Sleep(time.Millisecond)
				w.push("r", tag, tag)
			}
		}
		after := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			w.want("left", w.tags("r"), want)
		}
		add("a", "b")
		after(59*time.Second, "a b")
		after(time.Second, "b")
		add("c", "d", "e")
		after(59*time.Minute, "b c d e")
		after(time.Minute, "e")
		add("f", "g")
		w.keeper.SetRules(rulesOf(t, retention.Spec{Last: 2}))
		after(59*time.Second, "e f g")
		after(2*time.Second, "f g")
	})
}

// Pushes and applications at once: what was pushed last is there, and what is there
// can be pulled.
func TestConcurrent(t *testing.T) {
	w := newWorld(t, openBolt(t), retention.Spec{Last: 3}, retention.Spec{Matching: "x"})
	var pushing, applying sync.WaitGroup
	stop := make(chan struct{})
	applying.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.keeper.Apply(t.Context(), retention.Scope{}, nil); err != nil && !errors.Is(err, retention.ErrRulesChanged) {
				t.Error(err)
			}
			w.keeper.SetRules(rulesOf(t, retention.Spec{Last: 3}))
		}
	})
	const pushers, pushes = 4, 60
	for p := range pushers {
		pushing.Go(func() {
			for i := range pushes {
				repo := fmt.Sprintf("r%d", p)
				w.pass(time.Second)
				w.push(repo, fmt.Sprint(i%7), fmt.Sprintf("t%d", i%11))
				w.pull(repo, registry.Reference{Tag: fmt.Sprintf("t%d", i%11)})
			}
		})
	}
	pushing.Wait()
	close(stop)
	applying.Wait()
	w.apply()
	for p := range pushers {
		repo := fmt.Sprintf("r%d", p)
		w.want(repo, w.tags(repo), "t2 t3 t4") // pushes 57, 58 and 59 of 11 tags were 2, 3 and 4
	}
}
