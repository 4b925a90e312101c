package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/registrytest"
)

// TestOutside has the suite run on the names below no prefix.
func TestOutside(t *testing.T) {
	u := newTheirs(t)
	registrytest.Test(t, func(t *testing.T) registry.Registry {
		o := &ours{cache: memory(t), dir: t.TempDir(), clock: newClock()}
		o.open(t, u)
		return o
	})
	if n := u.times(""); n > 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestPrefixes(t *testing.T) {
	for name, prefixes := range map[string][]string{"empty": {""}, "invalid": {"Hub"}, "with a slash": {"hub/"}, "twice": {"hub", "ghcr", "hub"}} {
		var ups []mirror.Upstream
		for _, p := range prefixes {
			ups = append(ups, mirror.Upstream{Name: name, Prefix: p})
		}
		if _, err := mirror.New(memory(t), ups, mirror.Options{Dir: t.TempDir()}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	library := func(repo string) string {
		if strings.Contains(repo, "/") {
			return repo
		}
		return "library/" + repo
	}
	r, err := mirror.New(memory(t), []mirror.Upstream{
		{Name: "hub", Prefix: "hub", Repo: library}, {Name: "deep", Prefix: "hub/deep"}, {Name: "other", Prefix: "hub2"},
	}, mirror.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for repo, want := range map[string]string{
		"hub/nginx": "hub library/nginx", "hub/a/b": "hub a/b", "hub/deep/x": "deep x", "hub/deeper/x": "hub deeper/x",
		"hub2/x": "other x", "hub": " ", "hu/b": " ", "nginx": " ", "hub/deep": "hub library/deep",
	} {
		name, theirs, ok := r.Mirrors(repo)
		if got := name + " " + theirs; got != want || ok != (want != " ") {
			t.Errorf("%s: %q, %v; want %q", repo, got, ok, want)
		}
	}
}

func TestPullThrough(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "library/app", "v1", 1, 300_000, 10, 5000)
	has(t, o, "hub/library/app", tagged("v1"), a)
	has(t, o, "hub/library/app", digested(a.desc.Digest), a)
	hasBlobs(t, o, "hub/library/app", a)
	if n := u.sent.Load(); n != a.size() {
		t.Errorf("the upstream sent %d bytes, the image has %d", n, a.size())
	}
	o.settled(t)
	u.Server.Close()
	has(t, o, "hub/library/app", tagged("v1"), a)
	hasBlobs(t, o, "hub/library/app", a)
	hasBlobs(t, o.cache, "hub/library/app", a)
	for d, data := range a.blobs {
		if desc, err := o.StatBlob(t.Context(), "hub/library/app", d); err != nil || desc.Size != int64(len(data)) {
			t.Errorf("stat blob: %v, %v", desc, err)
		}
	}
}

// TestOnlyWhatIsAskedFor: of an index, one platform is pulled.
func TestOnlyWhatIsAskedFor(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	amd := push(t, u, "app", "", 1, 1000)
	arm := push(t, u, "app", "", 2, 1000)
	index := pushed(t, u, "app", "v1", image{}, ocispec.Index{
		Versioned: specsVersion, MediaType: ocispec.MediaTypeImageIndex, Manifests: []registry.Descriptor{amd.desc, arm.desc},
	}, ocispec.MediaTypeImageIndex)
	if desc, err := o.StatManifest(t.Context(), "hub/app", tagged("v1")); err != nil || desc.Digest != index.desc.Digest {
		t.Fatalf("%v, %v", desc, err)
	}
	has(t, o, "hub/app", tagged("v1"), index)
	has(t, o, "hub/app", digested(amd.desc.Digest), amd)
	hasBlobs(t, o, "hub/app", amd)
	o.settled(t)
	if got, want := u.sent.Load(), amd.size()+index.size(); got != want {
		t.Errorf("the upstream sent %d bytes, want %d", got, want)
	}
	if _, _, err := o.cache.Manifest(t.Context(), "hub/app", digested(arm.desc.Digest)); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("what nobody asked for: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	ctx, repo, data := t.Context(), "hub/library/app", []byte("data")
	d := digest.FromBytes(data)
	if _, err := o.PushBlob(ctx, "mine", d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	errs := map[string]error{}
	_, errs["push"] = o.PushBlob(ctx, repo, d, bytes.NewReader(data))
	_, errs["mount"] = o.MountBlob(ctx, repo, "mine", d)
	_, errs["manifest"] = o.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: d})
	errs["admit"] = o.AdmitManifest(ctx, repo, registry.ManifestPush{})
	_, errs["upload"] = o.StartUpload(ctx, repo, digest.SHA256)
	_, errs["write"] = o.WriteUpload(ctx, repo, "id", registry.Chunk{}, bytes.NewReader(data))
	_, errs["commit"] = o.CommitUpload(ctx, repo, "id", registry.Chunk{}, bytes.NewReader(data), d)
	for what, err := range errs {
		is(t, what, err, registry.ErrDenied)
		if err != nil && (!strings.Contains(err.Error(), "mirror of library/app") || !strings.Contains(err.Error(), "hub/")) {
			t.Errorf("%s: %v does not say why, and what to do", what, err)
		}
	}
	if err := o.AdmitManifest(ctx, "mine", registry.ManifestPush{}); err != nil {
		t.Error(err)
	}
	if n := u.times(""); n > 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestTagMoves(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	has(t, o, "hub/app", tagged("v1"), a)
	b := push(t, u, "app", "v1", 2, 100)
	before := u.times("* manifests")
	o.clock.advance(59 * time.Second)
	has(t, o, "hub/app", tagged("v1"), a)
	if u.times("* manifests") != before {
		t.Error("the upstream was asked before the interval was over")
	}
	o.clock.advance(2 * time.Second)
	desc, err := o.StatManifest(t.Context(), "hub/app", tagged("v1"))
	if err != nil || desc.Digest != b.desc.Digest {
		t.Errorf("%v, %v", desc, err)
	}
	has(t, o, "hub/app", tagged("v1"), b)
	has(t, o, "hub/app", digested(a.desc.Digest), a)
	var moves []digest.Digest
	for move, err := range o.cache.History(t.Context(), "hub/app", "v1") {
		if err != nil {
			t.Fatal(err)
		}
		moves = append(moves, move.Digest)
	}
	if !slices.Equal(moves, []digest.Digest{a.desc.Digest, b.desc.Digest}) {
		t.Errorf("history %v", moves)
	}
	// What has not moved is found to be so without a fetch.
	o.clock.advance(2 * time.Minute)
	gets, heads := u.times("GET manifests"), u.times("HEAD manifests")
	has(t, o, "hub/app", tagged("v1"), b)
	has(t, o, "hub/app", tagged("v1"), b)
	if u.times("GET manifests") != gets || u.times("HEAD manifests") != heads+1 {
		t.Errorf("%d GET and %d HEAD, want 0 and 1", u.times("GET manifests")-gets, u.times("HEAD manifests")-heads)
	}
}

func TestTagGoes(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	push(t, u, "app", "v2", 2, 100)
	has(t, o, "hub/app", tagged("v1"), a)
	if err := u.DeleteTag(t.Context(), "app", "v1"); err != nil {
		t.Fatal(err)
	}
	o.clock.advance(2 * time.Minute)
	_, _, err := o.Manifest(t.Context(), "hub/app", tagged("v1"))
	is(t, "a tag that is gone", err, registry.ErrManifestUnknown)
	has(t, o, "hub/app", digested(a.desc.Digest), a)
	for tag, err := range o.cache.Tags(t.Context(), "hub/app", "") {
		t.Errorf("the cache still has the tag %s, %v", tag, err)
	}
	if up, err := o.cache.Upstreamed(t.Context(), "hub/app", "v1"); err != nil || up != (registry.Upstreamed{}) {
		t.Errorf("still known of the tag: %v, %v", up, err)
	}
}

// TestAbsent: what the upstream does not have is asked for once in a while.
func TestAbsent(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	push(t, u, "app", "v1", 1, 100)
	d := digest.FromString("absent")
	type ask struct {
		name string
		kind *registry.Error
		fn   func() error
	}
	asks := []ask{
		{"tag", registry.ErrManifestUnknown, func() error { _, _, err := o.Manifest(t.Context(), "hub/app", tagged("no")); return err }},
		{"tag by HEAD", registry.ErrManifestUnknown, func() error { _, err := o.StatManifest(t.Context(), "hub/app", tagged("none")); return err }},
		{"manifest", registry.ErrManifestUnknown, func() error { _, _, err := o.Manifest(t.Context(), "hub/app", digested(d)); return err }},
		{"blob", registry.ErrBlobUnknown, func() error { _, _, err := o.Blob(t.Context(), "hub/app", d); return err }},
		{"blob by HEAD", registry.ErrBlobUnknown, func() error { _, err := o.StatBlob(t.Context(), "hub/app2", d); return err }},
		{"tags", registry.ErrNameUnknown, func() error {
			for _, err := range o.Tags(t.Context(), "hub/none", "") {
				return err
			}
			return nil
		}},
	}
	for _, a := range asks {
		t.Run(a.name, func(t *testing.T) {
			before := u.times("")
			for range 5 {
				is(t, a.name, a.fn(), a.kind)
			}
			if n := u.times("") - before; n != 1 {
				t.Errorf("the upstream was asked %d times, want once", n)
			}
			o.clock.advance(31 * time.Second)
			is(t, a.name, a.fn(), a.kind)
			if n := u.times("") - before; n != 2 {
				t.Errorf("the upstream was asked %d times, want twice", n)
			}
		})
	}
	b := push(t, u, "app", "no", 2, 100)
	_, _, err := o.Manifest(t.Context(), "hub/app", tagged("no"))
	if err != nil {
		is(t, "within the time", err, registry.ErrManifestUnknown)
	}
	o.clock.advance(31 * time.Second)
	has(t, o, "hub/app", tagged("no"), b)
}

// TestNoReferrers: that nothing refers to something is remembered, too.
func TestReferrers(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	list := func() (got []digest.Digest, err error) {
		for desc, err := range o.Referrers(t.Context(), "hub/app", a.desc.Digest, "", "") {
			if err != nil {
				return got, err
			}
			got = append(got, desc.Digest)
		}
		return got, nil
	}
	for range 3 {
		if got, err := list(); err != nil || len(got) > 0 {
			t.Errorf("%v, %v", got, err)
		}
	}
	if n := u.times("GET referrers"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	sbom := pushed(t, u, "app", "", image{}, ocispec.Manifest{
		Versioned: specsVersion, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x.sbom",
		Config: descOf(t, u, "app", []byte("{}")), Layers: []registry.Descriptor{}, Subject: &a.desc,
	}, ocispec.MediaTypeImageManifest)
	o.clock.advance(31 * time.Second)
	if got, err := list(); err != nil || !slices.Equal(got, []digest.Digest{sbom.desc.Digest}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := o.cache.Manifest(t.Context(), "hub/app", digested(sbom.desc.Digest)); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("it was fetched, though nobody asked for it: %v", err)
	}
	u.down(http.StatusInternalServerError)
	_, err := list()
	is(t, "none of them cached", err, registry.ErrUnavailable)
	u.fail(nil)
	has(t, o, "hub/app", digested(sbom.desc.Digest), sbom)
	u.down(http.StatusInternalServerError)
	if got, err := list(); err != nil || !slices.Equal(got, []digest.Digest{sbom.desc.Digest}) {
		t.Errorf("cached: %v, %v", got, err)
	}
}

func TestTags(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	for _, tag := range []string{"v2", "v3"} {
		push(t, u, "app", tag, 1, 100)
	}
	list := func(after string) []string {
		t.Helper()
		var got []string
		for tag, err := range o.Tags(t.Context(), "hub/app", after) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, tag)
		}
		return got
	}
	for after, want := range map[string][]string{"": {"v1", "v2", "v3"}, "v1": {"v2", "v3"}, "v3": nil} {
		if got := list(after); !slices.Equal(got, want) {
			t.Errorf("after %q: %v", after, got)
		}
	}
	u.down(http.StatusBadGateway)
	for _, err := range o.Tags(t.Context(), "hub/app", "") {
		is(t, "nothing is cached", err, registry.ErrUnavailable)
	}
	u.fail(nil)
	has(t, o, "hub/app", tagged("v1"), a)
	u.down(http.StatusBadGateway)
	if got := list(""); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("cached: %v", got)
	}
	repos := map[string]bool{}
	for repo, err := range o.Repositories(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		repos[repo] = true
	}
	if !maps.Equal(repos, map[string]bool{"hub/app": true}) {
		t.Errorf("repositories %v", repos)
	}
}

func TestDelete(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100_000)
	has(t, o, "hub/app", tagged("v1"), a)
	hasBlobs(t, o, "hub/app", a)
	o.settled(t)
	if err := o.DeleteTag(t.Context(), "hub/app", "v1"); err != nil {
		t.Fatal(err)
	}
	b := push(t, u, "app", "v1", 2, 100)
	has(t, o, "hub/app", tagged("v1"), b) // at once, as nothing is known of it
	if err := o.DeleteManifest(t.Context(), "hub/app", a.desc.Digest); err != nil {
		t.Fatal(err)
	}
	if err := o.DeleteBlob(t.Context(), "hub/app", a.layer()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.cache.StatBlob(t.Context(), "hub/app", a.layer()); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("the cache still has it: %v", err)
	}
	has(t, o, "hub/app", digested(a.desc.Digest), a)
	hasBlobs(t, o, "hub/app", a)
}

type caller struct{}

// TestMayFetch: who may not have the upstream asked gets what is cached.
func TestMayFetch(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u, func(_ *mirror.Upstream, opts *mirror.Options) {
		opts.MayFetch = func(ctx context.Context, repo string) error {
			if ctx.Value(caller{}) == nil {
				return registry.ErrUnauthorized.With("sign in to have %s fetched", repo)
			}
			return nil
		}
	})
	a := push(t, u, "app", "v1", 1, 100)
	ask := func(ctx context.Context) map[string]error {
		errs := map[string]error{}
		_, _, errs["tag"] = o.Manifest(ctx, "hub/app", tagged("v1"))
		_, errs["tag by HEAD"] = o.StatManifest(ctx, "hub/app", tagged("v1"))
		_, _, errs["manifest"] = o.Manifest(ctx, "hub/app", digested(a.desc.Digest))
		_, errs["blob by HEAD"] = o.StatBlob(ctx, "hub/app", a.layer())
		b, _, err := o.Blob(ctx, "hub/app", a.layer())
		if err == nil {
			b.Close()
		}
		errs["blob"] = err
		for _, err := range o.Tags(ctx, "hub/app", "") {
			errs["tags"] = err
		}
		return errs
	}
	for what, err := range ask(t.Context()) {
		is(t, what, err, registry.ErrUnauthorized)
	}
	if n := u.times(""); n > 0 {
		t.Fatalf("the upstream was asked %d times", n)
	}
	for what, err := range ask(context.WithValue(t.Context(), caller{}, true)) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	o.settled(t)
	o.clock.advance(time.Hour)
	before := u.times("")
	for what, err := range ask(t.Context()) {
		if err != nil {
			t.Errorf("cached %s: %v", what, err)
		}
	}
	if u.times("") != before {
		t.Error("the upstream was asked on behalf of who may not")
	}
}

// TestOtherRepository: a blob that is cached is no other repository's before the
// upstream has said so.
func TestOtherRepository(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "secret", "v1", 1, 300_000)
	d := a.layer()
	if _, err := u.MountBlob(t.Context(), "allowed", "secret", d); err != nil {
		t.Fatal(err)
	}
	hasBlobs(t, o, "hub/secret", a)
	o.settled(t)
	_, _, err := o.Blob(t.Context(), "hub/other", d)
	is(t, "another repository", err, registry.ErrBlobUnknown)
	_, err = o.StatBlob(t.Context(), "hub/other", d)
	is(t, "another repository, by HEAD", err, registry.ErrBlobUnknown)
	_, _, err = o.Manifest(t.Context(), "hub/other", digested(a.desc.Digest))
	is(t, "another repository's manifest", err, registry.ErrManifestUnknown)
	gets := u.times("GET blobs")
	if got, err := read(o, "hub/allowed", d); err != nil || !bytes.Equal(got, a.blobs[d]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := u.times("GET blobs") - gets; n > 0 {
		t.Errorf("the same bytes were fetched again, %d times", n)
	}
}

// TestLies: an upstream that says to have what was pushed here gets nobody to see it.
func TestLies(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	secret := noise(300_000, 1)
	d := digest.FromBytes(secret)
	if _, err := o.PushBlob(t.Context(), "mine", d, bytes.NewReader(secret)); err != nil {
		t.Fatal(err)
	}
	u.fail(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "300000") // and there is nothing behind it
		return true
	})
	if desc, err := o.StatBlob(t.Context(), "hub/app", d); err != nil || desc.Size != 300_000 {
		t.Errorf("%v, %v", desc, err) // as the upstream says
	}
	if got, err := read(o, "hub/app", d); err == nil {
		t.Errorf("the upstream had %d bytes shown that it does not have", len(got))
	}
	if _, err := o.cache.StatBlob(t.Context(), "hub/app", d); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("the cache: %v", err)
	}
}

// TestRefused: what the cache does not take is served all the same.
func TestRefused(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	o.cache.SetLimits(registry.Limits{Manifest: 10})
	a := push(t, u, "app", "v1", 1, 100)
	has(t, o, "hub/app", tagged("v1"), a)
	has(t, o, "hub/app", digested(a.desc.Digest), a)
}

func TestHeadless(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	u.fail(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		return false
	})
	has(t, o, "hub/app", tagged("v1"), a)
	b := push(t, u, "app", "v1", 2, 100)
	o.clock.advance(time.Hour)
	has(t, o, "hub/app", tagged("v1"), b)
}

func TestRestart(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 100)
	has(t, o, "hub/app", tagged("v1"), a)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fill-123", "fill-abc"} {
		write(t, filepath.Join(o.dir, name), "left by a crash")
	}
	_, _, err := o.Manifest(t.Context(), "hub/app", tagged("v2"))
	is(t, "after Close", err, registry.ErrUnavailable)
	o.open(t, u)
	before := u.times("")
	has(t, o, "hub/app", tagged("v1"), a) // was checked lately, before the restart
	if u.times("") != before {
		t.Error("what was learnt of the tag was forgotten")
	}
}
