package replicating_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/replicating"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// TestPush: what is pushed arrives, with all that belongs to it.
func TestPush(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{Prefix: "backup"})
	a.run()
	one := a.image("team/web", "one", "v1", "latest")
	multi := a.index("team/api", []registry.Descriptor{a.image("team/api", "amd64"), a.image("team/api", "arm64")}, "v2")
	a.until("the tags", func(s replicating.Status) bool { return s.Done >= 3 })
	signature := a.artifact("team/web", "signature", &one)
	alone := a.image("team/alone", "alone")
	a.until("the signature", func(s replicating.Status) bool { return s.Done >= 4 })
	b.has("backup/team/alone", string(alone.Digest), "")
	a.pass(c, 10*time.Second)
	s := a.quiet()
	b.has("backup/team/web", "v1", one.Digest)
	b.has("backup/team/web", "latest", one.Digest)
	b.has("backup/team/api", "v2", multi.Digest)
	b.has("backup/team/alone", string(alone.Digest), alone.Digest)
	b.has("backup/team/web", string(signature.Digest), signature.Digest)
	b.whole("backup/team/web", one.Digest)
	b.whole("backup/team/alone", alone.Digest)
	if s.Bytes == 0 || s.Last.IsZero() || a.repl.Failures() != 0 || len(s.Items) != 0 {
		t.Errorf("%+v, %d failures", s, a.repl.Failures())
	}
}

// TestMount: a layer that another repository of the target has is not sent.
func TestMount(t *testing.T) {
	a, _, _ := pair(t, replicating.Spec{})
	a.run()
	a.image("team/one", strings.Repeat("large", 1000), "v1")
	first := a.quiet().Bytes
	a.image("team/two", strings.Repeat("large", 1000), "v1")
	a.until("both", func(s replicating.Status) bool { return s.Done == 2 })
	if more := a.quiet().Bytes - first; more*10 > first {
		t.Errorf("%d bytes were sent, then %d though the target had the layers", first, more)
	}
}

// TestTags: with tags in the rule only these are replicated, and what belongs to them.
func TestTags(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{Repos: []string{"team/**"}, Tags: []string{"v*"}})
	a.run()
	amd := a.image("team/web", "amd64")
	v1 := a.index("team/web", []registry.Descriptor{amd}, "v1")
	dev := a.image("team/web", "dev", "dev")
	other := a.image("other/web", "other", "v1")
	a.until("v1", func(s replicating.Status) bool { return s.Done == 1 })
	// What refers to it, or to part of it, by a referrer or by a tag.
	sbom := a.artifact("team/web", "sbom", &amd)
	onSBOM := a.artifact("team/web", "signature of the sbom", &sbom)
	devSBOM := a.artifact("team/web", "sbom of dev", &dev)
	tag := strings.Replace(string(v1.Digest), ":", "-", 1) + ".sig"
	sig := a.image("team/web", "cosign", tag)
	devTag := strings.Replace(string(dev.Digest), ":", "-", 1) + ".sig"
	a.image("team/web", "cosign of dev", devTag)
	a.quiet()
	for _, d := range []registry.Descriptor{amd, v1, sbom, onSBOM, sig} {
		b.has("team/web", string(d.Digest), d.Digest)
	}
	b.has("team/web", "v1", v1.Digest)
	b.has("team/web", tag, sig.Digest)
	for _, ref := range []string{"dev", string(dev.Digest), string(devSBOM.Digest), devTag} {
		b.has("team/web", ref, "")
	}
	b.has("other/web", string(other.Digest), "")
	// A tag that comes later brings along what waits for it.
	a.retag("team/web", "dev", "v2")
	a.pass(c, time.Minute)
	a.until("v2", func(s replicating.Status) bool { return s.Pending == 0 })
	b.has("team/web", "v2", dev.Digest)
	b.has("team/web", string(devSBOM.Digest), devSBOM.Digest)
	b.has("team/web", devTag, a.named("team/web", devTag))
}

// retag has another tag name what a tag does.
func (s *site) retag(repo, from, to string) {
	s.t.Helper()
	data, desc, err := s.Manifest(s.t.Context(), repo, registry.Reference{Tag: from})
	ok(s.t, err)
	_, err = s.PushManifest(s.t.Context(), repo, registry.ManifestPush{Data: data, MediaType: desc.MediaType, Digest: desc.Digest, Tags: []string{to}})
	ok(s.t, err)
}

// TestMirrored: a cache is replicated only by a rule that names it.
func TestMirrored(t *testing.T) {
	for pattern, want := range map[string]bool{"**": false, "*/**": false, "**/nginx": false, "hub/**": true, "hub/library/nginx": true} {
		a, b, _ := pair(t, replicating.Spec{Repos: []string{pattern, "own/**"}})
		d := a.image("hub/library/nginx", "nginx", "1")
		a.image("own/web", "web", "1")
		a.run()
		a.quiet()
		if got := b.named("hub/library/nginx", "1") == d.Digest; got != want {
			t.Errorf("%s: replicated %v, want %v", pattern, got, want)
		}
		if b.named("own/web", "1") == "" {
			t.Errorf("%s: not replicated", pattern)
		}
	}
}

// TestMovedWhileAway: 1,000 pushes while the target is away, and moves of one tag, are
// pushed once each, to where the tags are then.
func TestMovedWhileAway(t *testing.T) {
	const n = 1000
	a, b, c := pair(t, replicating.Spec{Jobs: 8})
	b.fails(func(w http.ResponseWriter, _ *http.Request) bool { hangUp(w); return true })
	a.run()
	want := map[string]digest.Digest{}
	for i := range n {
		tag := fmt.Sprint("t", i%100)
		want[tag] = a.image("team/web", fmt.Sprint("text", i), tag).Digest
	}
	s := a.until("all", func(s replicating.Status) bool { return s.Pending == 100 && !s.Paused.IsZero() })
	if s.Done != 0 || s.Reason == "" {
		t.Errorf("%+v", s)
	}
	for range 20 { // it is away for long
		a.pass(c, 10*time.Minute)
	}
	b.fails(nil)
	b.asked("")
	a.quiet()
	for tag, d := range want {
		b.has("team/web", tag, d)
	}
	puts := map[string]int{}
	for _, r := range b.asked("PUT") {
		puts[r]++
	}
	for tag := range want {
		if got := puts["PUT /v2/team/web/manifests/"+tag]; got != 1 {
			t.Errorf("tag %s was pushed %d times", tag, got)
		}
	}
}

// TestFaults lets the target fail in each way while an image is pushed, and be well
// then.
func TestFaults(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500":              answers(http.StatusInternalServerError),
		"502":              answers(http.StatusBadGateway),
		"cut at once":      cutAt(0),
		"cut at byte 1":    cutAt(1),
		"cut at byte 3000": cutAt(3000),
		"silent hang up":   func(w http.ResponseWriter, _ *http.Request) bool { hangUp(w); return true },
		"not HTTP": func(w http.ResponseWriter, _ *http.Request) bool {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_, _ = conn.Write([]byte("220 mail.example.com ESMTP\r\n"))
				_ = conn.Close()
			}
			return true
		},
		"manifests only": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := pair(t, replicating.Spec{})
			b.fails(fault)
			a.run()
			d := a.image("team/web", strings.Repeat("text", 100), "v1")
			s := a.until("failed", func(s replicating.Status) bool { return len(s.Items) == 1 })
			if s.Broken != 0 || s.Items[0].Broken || s.Items[0].Tag != "v1" || s.Items[0].Problem == "" || strings.Contains(s.Items[0].Problem, password) {
				t.Errorf("%+v", s)
			}
			b.fails(nil)
			a.pass(c, 5*time.Minute)
			a.quiet()
			b.has("team/web", "v1", d.Digest)
			b.whole("team/web", d.Digest)
			if a.repl.Failures() == 0 {
				t.Error("no failure is counted")
			}
		})
	}
}

// TestLimited: a target that limits its clients is left alone for as long as it says.
func TestLimited(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{Jobs: 1})
	b.fails(answers(http.StatusTooManyRequests, "Retry-After", "300"))
	a.run()
	a.image("team/web", "one", "v1")
	a.until("paused", func(s replicating.Status) bool { return !s.Paused.IsZero() })
	first := len(b.asked(""))
	for i := range 20 {
		a.image("team/web", fmt.Sprint(i), fmt.Sprint("w", i))
	}
	a.pass(c, 299*time.Second)
	a.pass(c, 0)
	if more := b.asked(""); len(more) != 0 {
		t.Errorf("%d requests, then %v before the time has come", first, more)
	}
	b.fails(nil)
	a.pass(c, 5*time.Second)
	a.quiet()
}

// TestBroken: what the target refuses does not hold up what it takes, and is tried
// again when somebody says so, or after an hour.
func TestBroken(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{})
	b.SetImmutable(func(repo, _ string) bool { return repo == "fixed/web" })
	b.image("fixed/web", "the first", "v1")
	a.run()
	for i := range 20 {
		a.image("denied/web", fmt.Sprint(i), fmt.Sprint("v", i))
	}
	a.image("fixed/web", "the second", "v1")
	d := a.image("team/web", "good", "v1")
	s := a.until("all but the broken ones", func(s replicating.Status) bool { return s.Pending == 21 && s.Broken == 21 })
	b.has("team/web", "v1", d.Digest)
	if len(s.Items) != 21 {
		t.Errorf("%d items", len(s.Items))
	}
	for _, i := range s.Items {
		if !i.Broken || i.Due.Sub(i.Failed) < time.Hour || i.Problem == "" {
			t.Errorf("%+v", i)
		}
		if i.Repo == "fixed/web" && !strings.Contains(i.Problem, "immutable") {
			t.Errorf("does not tell why: %s", i.Problem)
		}
	}
	failures := a.repl.Failures()
	a.pass(c, 59*time.Minute)
	a.image("team/web", "more", "v2")
	a.until("v2", func(s replicating.Status) bool { return s.Pending == 21 })
	if now := a.repl.Failures(); now != failures {
		t.Errorf("%d failures, then %d", failures, now)
	}
	b.SetImmutable(func(string, string) bool { return false })
	n, err := a.repl.Retry(t.Context(), "b")
	if n != 21 || err != nil {
		t.Errorf("retry: %d, %v", n, err)
	}
	a.until("one less", func(s replicating.Status) bool { return s.Pending == 20 && s.Broken == 20 })
	b.has("fixed/web", "v1", a.named("fixed/web", "v1"))
	if _, err := a.repl.Retry(t.Context(), "c"); !errors.Is(err, replicating.ErrUnknown) {
		t.Errorf("retry of what is not there: %v", err)
	}
	// The hour has passed.
	failures = a.repl.Failures()
	a.pass(c, 80*time.Minute)
	a.until("tried again", func(replicating.Status) bool { return a.repl.Failures() >= failures+20 })
}

// TestGone: an image that is deleted while it waits needs nothing.
func TestGone(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{})
	b.fails(answers(http.StatusInternalServerError))
	a.run()
	gone, kept := a.image("team/web", "gone", "v1"), a.image("team/web", "kept", "v2")
	a.image("team/web", "other", "v3")
	ok(t, a.DeleteManifest(t.Context(), "team/web", gone.Digest))
	a.until("failed", func(s replicating.Status) bool { return len(s.Items) > 0 })
	b.fails(nil)
	a.pass(c, 5*time.Minute)
	a.quiet()
	b.has("team/web", string(gone.Digest), "")
	b.has("team/web", "v2", kept.Digest)
}

// TestDeletes: deletions are replicated if the rule says so.
func TestDeletes(t *testing.T) {
	for _, deletes := range []bool{true, false} {
		a, b, _ := pair(t, replicating.Spec{Deletes: deletes})
		a.run()
		one, two := a.image("team/web", "one", "v1", "v1.0"), a.image("team/web", "two", "v2")
		a.quiet()
		ok(t, a.DeleteTag(t.Context(), "team/web", "v1"))
		ok(t, a.DeleteManifest(t.Context(), "team/web", two.Digest))
		a.quiet()
		want := func(d registry.Descriptor) digest.Digest {
			if deletes {
				return ""
			}
			return d.Digest
		}
		b.has("team/web", "v1", want(one))
		b.has("team/web", "v1.0", one.Digest)
		b.has("team/web", "v2", want(two))
		b.has("team/web", string(two.Digest), want(two))
		// What is pushed again is there again.
		ok(t, a.DeleteTag(t.Context(), "team/web", "v1.0"))
		three := a.image("team/web", "three", "v1.0")
		a.quiet()
		b.has("team/web", "v1.0", three.Digest)
	}
}

// TestDeletedBeforePushed: what the target never had is not deleted there, nor is what
// a collection removes.
func TestDeletedBeforePushed(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{Deletes: true})
	d := a.image("team/web", "one", "v1")
	b.image("team/web", "one", "mine")
	ok(t, a.DeleteTag(t.Context(), "team/web", "v1"))
	a.run()
	a.pass(c, time.Minute)
	a.quiet()
	b.has("team/web", "mine", d.Digest)
}

// TestLoop: two registries that replicate to each other come to rest, also when the
// same tag is pushed at both at once.
func TestLoop(t *testing.T) {
	a, b := newSite(t, mem.NewMeta(), time.Now, false), newSite(t, mem.NewMeta(), time.Now, false)
	a.repl.SetRules([]replicating.Rule{a.to(replicating.Spec{Name: "b", Deletes: true}, b.url, time.Now)})
	b.repl.SetRules([]replicating.Rule{b.to(replicating.Spec{Name: "a", Deletes: true}, a.url, time.Now)})
	a.run()
	b.run()
	d := a.image("team/web", "one", "v1")
	for b.named("team/web", "v1") != d.Digest {
		time.Sleep(time.Millisecond)
	}
	rest := func() {
		t.Helper()
		for {
			a.quiet()
			b.quiet()
			x, err := a.repl.Pending(t.Context())
			ok(t, err)
			if x == 0 {
				return
			}
		}
	}
	rest()
	toA, toB := a.asked("PUT"), b.asked("PUT")
	if len(toA) != 0 {
		t.Errorf("came back: %v", toA)
	}
	if n := slices.Index(toB, "PUT /v2/team/web/manifests/v1"); n < 0 {
		t.Errorf("got %v", toB)
	}
	for i := range 20 {
		var both sync.WaitGroup
		for _, s := range []*site{a, b} {
			both.Go(func() { s.image("team/web", fmt.Sprint(s.url, i), fmt.Sprint("w", i)) })
		}
		both.Wait()
	}
	rest()
	for i := range 20 {
		tag := fmt.Sprint("w", i)
		if x, y := a.named("team/web", tag), b.named("team/web", tag); x != y || x == "" {
			t.Errorf("%s is %s and %s", tag, x, y)
		}
	}
	ok(t, a.DeleteTag(t.Context(), "team/web", "v1"))
	for b.named("team/web", "v1") != "" {
		time.Sleep(time.Millisecond)
	}
	rest()
	a.has("team/web", "v1", "")
}

// shared hides that nobody else writes to a store.
type shared struct{ storage.Meta }

// TestTwoReplicas run on one store: each row is worked on by one of them, and what one
// of them has taken goes to the other when it has been away for too long.
func TestTwoReplicas(t *testing.T) {
	c := newClock()
	meta := shared{mem.NewMeta()}
	blobs := mem.NewBlobs()
	one, two := newReplica(t, blobs, meta, c.now, false), newReplica(t, blobs, meta, c.now, false)
	b := newSite(t, mem.NewMeta(), time.Now, true)
	for _, s := range []*site{one, two} {
		s.repl.SetRules([]replicating.Rule{s.to(replicating.Spec{Name: "b"}, b.url, c.now)})
	}
	for i := range 50 {
		one.image("team/web", fmt.Sprint("text", i), fmt.Sprint("v", i))
	}
	hang := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hang) })
	defer goOn()
	b.fails(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/v") {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		return false
	})
	stop := one.run()
	one.until("taken", func(replicating.Status) bool {
		return slices.ContainsFunc(b.asked("PUT"), func(s string) bool { return strings.Contains(s, "/manifests/v") })
	})
	two.run()
	b.fails(nil)
	two.until("all but those that are taken", func(s replicating.Status) bool { return s.Pending <= 3 })
	goOn()
	one.clock = c
	one.pass(c, time.Minute)
	two.repl.Wake()
	one.quiet()
	stop()
	puts := map[string]int{}
	for _, r := range b.asked("PUT") {
		puts[r]++
	}
	for i := range 50 {
		b.has("team/web", fmt.Sprint("v", i), one.named("team/web", fmt.Sprint("v", i)))
		if n := puts[fmt.Sprint("PUT /v2/team/web/manifests/v", i)]; n > 1 {
			t.Errorf("v%d was pushed %d times", i, n)
		}
	}
}

// TestRollback: what was rolled back is not replicated.
func TestRollback(t *testing.T) {
	a, _, _ := pair(t, replicating.Spec{})
	errNo := errors.New("not this one")
	err := a.meta.Update(t.Context(), func(tx storage.Tx) error {
		change := registry.Change{Kind: registry.MovedTag, Repo: "team/web", Tag: "v1", Digest: digest.FromString("x")}
		return errors.Join(a.repl.Journal(nil).Write(t.Context(), tx, []registry.Change{change}), errNo)
	})
	if !errors.Is(err, errNo) {
		t.Fatal(err)
	}
	if n, err := a.repl.Pending(t.Context()); n != 0 || err != nil {
		t.Errorf("%d wait, %v", n, err)
	}
}

// TestSetRules: what waits for a rule that is gone is removed, and a rule that was
// wrong is tried at once when it is changed.
func TestSetRules(t *testing.T) {
	a, b, c := pair(t, replicating.Spec{})
	b.fails(answers(http.StatusForbidden))
	rule := a.to(replicating.Spec{Name: "b"}, b.url, c.now)
	gone := a.to(replicating.Spec{Name: "b.gone"}, b.url, c.now)
	a.repl.SetRules([]replicating.Rule{rule, gone})
	a.run()
	d := a.image("team/web", "one", "v1")
	a.until("broken", func(s replicating.Status) bool { return s.Broken == 1 })
	b.fails(nil)
	a.repl.SetRules([]replicating.Rule{a.to(replicating.Spec{Name: "b", Prefix: "x"}, b.url, c.now)})
	a.quiet()
	b.has("x/team/web", "v1", d.Digest)
	ok(t, a.meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Replications.Scan(tx, nil, nil) {
			t.Errorf("there is %q, %v", e.Key, err)
		}
		for e, err := range storage.ReplicationsDue.Scan(tx, nil, nil) {
			t.Errorf("there is %q, %v", e.Key, err)
		}
		return nil
	}))
}

// TestStop ends Run while an image is sent: it is sent again when it runs anew.
func TestStop(t *testing.T) {
	a, b, _ := pair(t, replicating.Spec{})
	begun := make(chan struct{}, 100)
	b.fails(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			begun <- struct{}{}
			_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection is not seen
			<-r.Context().Done()
			return true
		}
		return false
	})
	stop := a.run()
	d := a.image("team/web", "one", "v1")
	<-begun
	stop()
	b.fails(nil)
	if s := a.until("given back", func(replicating.Status) bool { return true }); s.Pending != 1 || a.repl.Failures() != 0 {
		t.Errorf("%+v, %d failures", s, a.repl.Failures())
	}
	a.run()
	a.quiet()
	b.has("team/web", "v1", d.Digest)
}

// TestResync finds what differs, and mends it.
func TestResync(t *testing.T) {
	a, b, _ := pair(t, replicating.Spec{Repos: []string{"team/**"}, Deletes: true})
	a.run()
	same, moved := a.image("team/web", "same", "same"), a.image("team/web", "one", "moved")
	a.image("other", "other", "v1")
	a.quiet()
	signature := a.artifact("team/web", "signature", &same)
	alone := a.image("team/web", "alone")
	// The target was tampered with, and lost what it had got.
	b.image("team/web", "two", "moved")
	b.image("team/web", "three", "extra")
	a.until("the signature", func(s replicating.Status) bool { return s.Pending == 1 })
	ok(t, b.DeleteManifest(t.Context(), "team/web", signature.Digest))
	var last replicating.Progress
	var found []string
	tell := func(p replicating.Progress) {
		if last = p; p.Item != nil {
			found = append(found, p.Item.Repo+":"+p.Item.Tag+string(p.Item.Digest))
		}
	}
	ok(t, a.repl.Resync(t.Context(), "b", true, tell))
	slices.Sort(found)
	want := []string{"team/web:extra", "team/web:moved", "team/web:" + string(alone.Digest), "team/web:" + string(signature.Digest)}
	slices.Sort(want)
	if !slices.Equal(found, want) || last.Differ != 4 {
		t.Errorf("found %v, want %v; %+v", found, want, last)
	}
	b.has("team/web", "extra", b.named("team/web", "extra"))
	ok(t, a.repl.Resync(t.Context(), "b", false, tell))
	if last.Waiting != 0 || last.Broken != 0 || last.Differ != 4 {
		t.Errorf("%+v", last)
	}
	b.has("team/web", "moved", moved.Digest)
	b.has("team/web", "extra", "")
	b.has("team/web", string(signature.Digest), signature.Digest)
	b.has("team/web", string(alone.Digest), alone.Digest)
	b.has("other", "v1", "")
	ok(t, a.repl.Resync(t.Context(), "b", true, tell))
	if last.Differ != 0 || last.Checked == 0 {
		t.Errorf("%+v", last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.repl.Resync(ctx, "b", true, tell); err == nil {
		t.Error("it does not end")
	}
	if err := a.repl.Resync(t.Context(), "c", true, tell); !errors.Is(err, replicating.ErrUnknown) {
		t.Errorf("got %v", err)
	}
	b.fails(answers(http.StatusInternalServerError))
	if err := a.repl.Resync(t.Context(), "b", true, tell); err == nil {
		t.Error("the target does not answer, and nothing is said")
	}
}
