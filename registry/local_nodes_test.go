package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// report says that a node runs manifests of repository a.
func (c *collected) report(node string, ttl time.Duration, running ...digest.Digest) (unknown []registry.Running, err error) {
	r := registry.Report{Node: node, By: "runner", TTL: ttl}
	for _, d := range running {
		r.Running = append(r.Running, registry.Running{Repo: "a", Digest: d})
	}
	until, unknown, err := c.ReportRunning(c.t.Context(), r)
	if err == nil && !until.Equal(c.Now().Add(ttl)) {
		c.t.Errorf("holds until %v, want %v from %v", until, ttl, c.Now())
	}
	return unknown, err
}

// reports fails the test if a report does.
func (c *collected) reports(node string, ttl time.Duration, running ...digest.Digest) {
	c.t.Helper()
	if unknown, err := c.report(node, ttl, running...); err != nil || len(unknown) > 0 {
		c.t.Fatalf("unknown %v, %v", unknown, err)
	}
}

// running lists what the metadata says that nodes run, as "node digest"; it fails the
// test if the two tables of that differ.
func (c *collected) running() (all []string) {
	c.t.Helper()
	var other []string
	err := c.meta.View(c.t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Runs.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			node, rest, _ := strings.Cut(string(e.Key), "\x00")
			d, _, err := storage.CutDigest([]byte(rest))
			if err != nil {
				return err
			}
			all = append(all, node+" "+string(d))
		}
		for e, err := range storage.RunningOn.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			d, rest, err := storage.CutDigest(e.Key)
			if err != nil {
				return err
			}
			other = append(other, string(rest[1:])+" "+string(d))
		}
		return nil
	})
	slices.Sort(other)
	if err != nil || !slices.Equal(all, other) {
		c.t.Errorf("by node %v, by digest %v, %v", all, other, err)
	}
	return all
}

func (c *collected) nodes() (names []string) {
	c.t.Helper()
	for n, err := range c.Nodes(c.t.Context()) {
		if err != nil {
			c.t.Fatal(err)
		}
		names = append(names, fmt.Sprintf("%s %s %d", n.Name, n.By, n.Running))
	}
	return names
}

// needs fails the test unless blobs can be read, or cannot.
func (c *collected) needs(there bool, blobs ...registry.Descriptor) {
	c.t.Helper()
	for _, b := range blobs {
		f, _, err := c.Blob(c.t.Context(), "a", b.Digest)
		if err == nil {
			_ = f.Close()
		}
		if (err == nil) != there {
			c.t.Errorf("blob %s: %v, want it there: %v", b.Digest, err, there)
		}
	}
}

func (c *collected) keepShort() {
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute})
}

// What a node runs stays with its layers and config, whatever becomes of the index
// that it came with, and goes when the report ends.
func TestNodeKeepsChild(t *testing.T) {
	c := newCollected(t)
	c.keepShort()
	layer, other := c.blob("a", "one"), c.blob("a", "two")
	one := must[digest.Digest](t)(c.image("a", nil, "", layer))
	two := must[digest.Digest](t)(c.image("a", nil, "", other))
	index := must[digest.Digest](t)(c.index("a", []string{"v1"}, one, two))
	c.reports("n1", 5*24*time.Hour, one)
	if err := c.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		c.pass(2 * time.Hour)
		c.collect(false)
	}
	if c.has("a", index) || c.has("a", two) || !c.has("a", one) {
		t.Error("want the child that a node runs, and that alone")
	}
	config := registry.Descriptor{Digest: digest.FromString("{}")}
	c.needs(true, layer, config)
	c.needs(false, other)
	c.pass(5 * 24 * time.Hour)
	for range 4 {
		c.collect(false)
		c.pass(2 * time.Hour)
	}
	if c.has("a", one) || len(c.running()) > 0 || len(c.nodes()) > 0 {
		t.Error("it stays although the report has ended")
	}
	c.needs(false, layer, config)
	if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats != (registry.Stats{}) {
		t.Errorf("left: %+v", stats)
	}
}

// What is pushed by digest alone while a node runs it is garbage when that ends.
func TestPushedWhileRunning(t *testing.T) {
	c := newCollected(t)
	c.keepShort()
	layer := c.blob("a", "one")
	one := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", layer))
	c.reports("n1", 24*time.Hour, one)
	if err := c.DeleteManifest(t.Context(), "a", one); err != nil {
		t.Fatal(err)
	}
	must[digest.Digest](t)(c.image("a", nil, "", layer))
	c.pass(20 * time.Hour)
	if c.collect(false); !c.has("a", one) {
		t.Error("what a node runs has gone")
	}
	for range 4 {
		c.pass(5 * time.Hour)
		c.collect(false)
	}
	if c.has("a", one) {
		t.Error("it stays although the report has ended")
	}
	c.needs(false, layer)
}

// A node that runs an index keeps all of it, and what refers to it.
func TestNodeKeepsIndex(t *testing.T) {
	c := newCollected(t)
	c.keepShort()
	layer := c.blob("a", "one")
	one := must[digest.Digest](t)(c.image("a", nil, "", layer))
	index := must[digest.Digest](t)(c.index("a", []string{"v1"}, one))
	signature := must[digest.Digest](t)(c.image("a", nil, index, c.blob("a", "signature")))
	c.reports("n1", 24*time.Hour, index)
	if err := c.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	c.pass(20 * time.Hour)
	for range 3 {
		c.collect(true) // at once does not mean regardless
	}
	if !c.has("a", index) || !c.has("a", one) || !c.has("a", signature) {
		t.Error("what a node runs has gone")
	}
	c.needs(true, layer)
	if err := c.RemoveNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	c.collect(true)
	if c.has("a", index) || c.has("a", one) || c.has("a", signature) {
		t.Error("what the node ran stays although it was removed")
	}
}

// A report replaces the one before: what is no longer run goes after the grace
// period, and not only when the old report would have ended; what still is stays.
func TestNodeReportsAgain(t *testing.T) {
	c := newCollected(t)
	c.keepShort()
	one := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "one")))
	two := must[digest.Digest](t)(c.image("a", []string{"v2"}, "", c.blob("a", "two")))
	c.reports("n1", 7*24*time.Hour, one, two, one)
	c.reports("n2", time.Hour, one)
	if got := c.nodes(); !slices.Equal(got, []string{"n1 runner 2", "n2 runner 1"}) {
		t.Errorf("nodes %v", got)
	}
	for _, tag := range []string{"v1", "v2"} {
		if err := c.DeleteTag(t.Context(), "a", tag); err != nil {
			t.Fatal(err)
		}
	}
	c.pass(2 * time.Hour)
	c.collect(false) // is put off until the reports end
	if got := c.nodes(); !slices.Equal(got, []string{"n1 runner 2"}) {
		t.Errorf("nodes %v", got)
	}
	c.reports("n1", 7*24*time.Hour, two)
	c.pass(2 * time.Hour)
	c.collect(false)
	if c.has("a", one) || !c.has("a", two) {
		t.Error("want what the node still runs, and that alone")
	}
	for range 10 { // it goes on saying so
		c.pass(6 * 24 * time.Hour)
		c.collect(false)
		c.reports("n1", 7*24*time.Hour, two)
	}
	if got := c.running(); !c.has("a", two) || !slices.Equal(got, []string{"n1 " + string(two)}) {
		t.Errorf("running: %v", got)
	}
}

// What is not there is told, and not kept in advance: whoever may push there could be
// kept from removing it.
func TestNodeReportsUnknown(t *testing.T) {
	c := newCollected(t)
	one := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "one")))
	missing := digest.FromString("missing")
	_, unknown, err := c.ReportRunning(t.Context(), registry.Report{Node: "n", TTL: time.Hour, Running: []registry.Running{
		{Repo: "b", Digest: one}, {Repo: "a", Digest: missing}, {Repo: "a", Digest: one},
	}})
	if err != nil || len(unknown) != 2 || unknown[0] != (registry.Running{Repo: "b", Digest: one}) || unknown[1].Digest != missing {
		t.Errorf("unknown %v, %v", unknown, err)
	}
	if got := c.running(); !slices.Equal(got, []string{"n " + string(one)}) {
		t.Errorf("running %v", got)
	}
}

func TestNodeRefused(t *testing.T) {
	c := newCollected(t)
	try := func(r registry.Report, want error) {
		t.Helper()
		if _, _, err := c.ReportRunning(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("%.60v: %v, want %v", r, err, want)
		}
	}
	for _, name := range []string{"", ".", "..", "-a", "a/b", "a\x00b", "ä", "a b", strings.Repeat("a", 254)} {
		try(registry.Report{Node: name, TTL: time.Hour}, registry.ErrNodeInvalid)
		if err := c.RemoveNode(t.Context(), name); !errors.Is(err, registry.ErrNodeUnknown) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	for _, ttl := range []time.Duration{0, -time.Hour, time.Millisecond, 7*24*time.Hour + 1} {
		try(registry.Report{Node: "n", TTL: ttl}, registry.ErrNodeInvalid)
	}
	try(registry.Report{Node: "n", TTL: time.Hour, Running: make([]registry.Running, registry.MaxRunning+1)}, registry.ErrNodeInvalid)
	try(registry.Report{Node: "n", By: "alice", TTL: time.Hour}, nil)
	try(registry.Report{Node: "n", By: "alice", TTL: time.Hour}, nil)
	try(registry.Report{Node: "n", By: "mallory", TTL: time.Hour}, registry.ErrNodeTaken)
	try(registry.Report{Node: "n", By: "root", Any: true, TTL: time.Hour}, nil)
	c.pass(2 * time.Hour)
	try(registry.Report{Node: "n", By: "mallory", TTL: time.Hour}, nil)
	for i := range 999 {
		try(registry.Report{Node: fmt.Sprint("n", i), By: "mallory", TTL: time.Hour}, nil)
	}
	try(registry.Report{Node: "more", By: "mallory", TTL: time.Hour}, registry.ErrNodesMany)
	try(registry.Report{Node: "n7", By: "mallory", TTL: time.Hour}, nil)
	try(registry.Report{Node: "more", By: "alice", TTL: time.Hour}, nil)
	c.pass(2 * time.Hour)
	c.collect(false)
	try(registry.Report{Node: "again", By: "mallory", TTL: time.Hour}, nil)
}

// Large reports of one node at the same time leave what one of them says.
func TestNodeReportsAtOnce(t *testing.T) {
	c := newCollected(t)
	var all []digest.Digest
	for i := range 600 {
		all = append(all, must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", fmt.Sprint(i)))))
	}
	halves := [][]digest.Digest{all[:400], all[200:]}
	for range 10 {
		var group sync.WaitGroup
		done := make([]bool, 2)
		for i, half := range halves {
			group.Go(func() {
				_, err := c.report("n", time.Hour, half...)
				if err != nil && !errors.Is(err, registry.ErrNodeNewer) {
					t.Error(err)
				}
				done[i] = err == nil
			})
		}
		group.Wait()
		got := c.running()
		if len(got) != 400 || !done[0] && !done[1] {
			t.Fatalf("%d run after reports of 400 each; done: %v", len(got), done)
		}
	}
	c.pass(2 * time.Hour)
	c.collect(false)
	if got := c.running(); len(got) > 0 {
		t.Errorf("%d run after the reports have ended", len(got))
	}
}

// fillingUp is a store whose updates fail from some number on.
type fillingUp struct {
	storage.Meta
	mu   sync.Mutex
	left int
}

func (f *fillingUp) set(left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = left
}

func (f *fillingUp) Update(ctx context.Context, fn func(storage.Tx) error) error {
	f.mu.Lock()
	f.left--
	fail := f.left < 0
	f.mu.Unlock()
	if fail {
		return storage.ErrNoSpace
	}
	return f.Meta.Update(ctx, fn)
}

// A report that is cut short at any of its transactions leaves nothing that does not
// end with it, and keeps what the one before kept.
func TestNodeReportCutShort(t *testing.T) {
	c := newCollected(t)
	var all []digest.Digest
	for i := range 300 {
		all = append(all, must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", fmt.Sprint(i)))))
	}
	store := &fillingUp{Meta: c.meta, left: 100}
	local, err := registry.NewLocal(t.Context(), c.blobs, store, registry.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	keep := c.Local
	finished := false
	for after := 0; !finished; after++ {
		c.reports("n", time.Hour, all[250:]...)
		c.Local = local
		store.set(after)
		_, err := c.report("n", time.Hour, all[:260]...)
		c.Local, finished = keep, err == nil
		if err != nil && !errors.Is(err, storage.ErrNoSpace) {
			t.Fatal(err)
		}
		running := c.running()
		for _, d := range all[250:260] {
			if !slices.Contains(running, "n "+string(d)) {
				t.Fatalf("after %d transactions: what both reports have is not kept", after)
			}
		}
		c.pass(2 * time.Hour)
		if err := c.Collect(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		if got := c.running(); len(got) > 0 || len(c.nodes()) > 0 {
			t.Fatalf("after %d transactions: %d are left when the report has ended", after, len(got))
		}
		if after > 100 {
			t.Fatal("a report has no end")
		}
	}
}

// The history tells where tags pointed, who moved them, and what is still there.
func TestHistory(t *testing.T) {
	c := newCollected(t)
	local, err := registry.NewLocal(t.Context(), c.blobs, c.meta, registry.Options{
		Now: c.Now, Actor: func(context.Context) string { return "alice" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	c.Local = local
	c.keepShort()
	tell := func(repo, tag string) (all []string) {
		for m, err := range c.History(t.Context(), repo, tag) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %.10s %s %v %s", m.Tag, m.Digest, m.Moved.Sub(time.Unix(1e9, 0)), m.Kept, m.By))
		}
		return all
	}
	one := must[digest.Digest](t)(c.image("a", []string{"v1", "v10"}, "", c.blob("a", "one")))
	c.pass(time.Minute)
	two := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "two")))
	must[digest.Digest](t)(c.image("a/b", []string{"v1"}, "", c.blob("a/b", "three"))) // is another one
	want := []string{
		fmt.Sprintf("v1 %.10s 0s true alice", one), fmt.Sprintf("v1 %.10s 1m0s true alice", two), fmt.Sprintf("v10 %.10s 0s true alice", one),
	}
	if got := tell("a", ""); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := tell("a", "v1"); !slices.Equal(got, want[:2]) {
		t.Errorf("got %q, want %q", got, want[:2])
	}
	for _, tag := range []string{"v1", "v10"} {
		if err := c.DeleteTag(t.Context(), "a", tag); err != nil {
			t.Fatal(err)
		}
	}
	c.rest()
	want = []string{fmt.Sprintf("v1 %.10s 0s false alice", one), fmt.Sprintf("v1 %.10s 1m0s false alice", two), "v1  1m0s false alice"}
	if got := tell("a", "v1"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := tell("a", "v"); got != nil {
		t.Errorf("a tag that never was: %q", got)
	}
	for _, err := range c.History(t.Context(), "a", "") { // can be left
		if err != nil {
			t.Error(err)
		}
		break
	}
}

// The queue counts what is to be looked at, and when.
func TestQueue(t *testing.T) {
	c := newCollected(t)
	if q := must[registry.Queue](t)(c.Queue(t.Context(), 10)); q != (registry.Queue{}) {
		t.Errorf("empty: %+v", q)
	}
	for i := range 5 {
		c.blob("a", fmt.Sprint(i))
	}
	q := must[registry.Queue](t)(c.Queue(t.Context(), 3))
	if wait := q.Next.Sub(c.Now()); q.Reviews != 3 || !q.More || wait < 24*time.Hour || wait > 27*time.Hour {
		t.Errorf("%+v, the first in %v", q, wait)
	}
	if q := must[registry.Queue](t)(c.Queue(t.Context(), 5)); q.Reviews != 5 || q.More {
		t.Errorf("%+v", q)
	}
}
