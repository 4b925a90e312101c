package mirroring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// store is a registry, with what it stands on.
type store struct {
	t     testing.TB
	local *registry.Local
	blobs *mem.Blobs
	meta  *mem.Meta
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{t: t, blobs: mem.NewBlobs(), meta: mem.NewMeta()}
	var err error
	if s.local, err = registry.NewLocal(t.Context(), s.blobs, s.meta, registry.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.local.Close)
	return s
}

func (s *store) blob(repo, text string) registry.Descriptor {
	s.t.Helper()
	d, err := s.local.PushBlob(s.t.Context(), repo, digest.FromString(text), strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	d.MediaType = ocispec.MediaTypeImageLayer
	return d
}

func (s *store) push(repo string, v any, mediaType string, tags ...string) registry.Descriptor {
	s.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := s.local.PushManifest(s.t.Context(), repo, registry.ManifestPush{
		Data: data, MediaType: mediaType, Digest: digest.FromBytes(data), Tags: tags,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p.Descriptor
}

// image pushes an image of two layers, one of which all images have.
func (s *store) image(repo, text string, subject *registry.Descriptor, tags ...string) registry.Descriptor {
	s.t.Helper()
	config := s.blob(repo, fmt.Sprintf(`{"text":%q}`, text))
	config.MediaType = ocispec.MediaTypeImageConfig
	return s.push(repo, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject, Config: config,
		Layers: []registry.Descriptor{s.blob(repo, strings.Repeat("base", 50_000)), s.blob(repo, strings.Repeat(text, 1000))},
	}, ocispec.MediaTypeImageManifest, tags...)
}

// index pushes an index of images for platforms.
func (s *store) index(repo, text string, platforms []string, tags ...string) (root registry.Descriptor, images map[string]registry.Descriptor) {
	s.t.Helper()
	images = map[string]registry.Descriptor{}
	var children []registry.Descriptor
	for _, p := range platforms {
		parts := append(strings.Split(p, "/"), "")
		d := s.image(repo, text+" for "+p, nil)
		d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		images[p] = d
		children = append(children, d)
	}
	return s.push(repo, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}, ocispec.MediaTypeImageIndex, tags...), images
}

// tags returns the tags of a repository, and what they name.
func (s *store) tags(repo string) map[string]digest.Digest {
	s.t.Helper()
	all := map[string]digest.Digest{}
	for tag, err := range s.local.Tags(context.Background(), repo, "") {
		if errors.Is(err, registry.ErrNameUnknown) {
			break
		}
		if err != nil {
			s.t.Fatal(err)
		}
		desc, err := s.local.StatManifest(context.Background(), repo, registry.Reference{Tag: tag})
		if err != nil {
			s.t.Fatal(err)
		}
		all[tag] = desc.Digest
	}
	return all
}

func (s *store) has(repo string, d digest.Digest) bool {
	_, err := s.local.StatManifest(context.Background(), repo, registry.Reference{Digest: d})
	return err == nil
}

// served is an upstream: a registry over HTTP that counts what it is asked.
type served struct {
	*store
	client *remote.Client

	mu     sync.Mutex
	asked  map[string]int // by "METHOD KIND", KIND being manifests, blobs, tags, referrers or _catalog
	refuse func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB) *served {
	s := &served{store: newStore(t), asked: map[string]int{}}
	h := registry.NewServer(s.local, registry.ServerOptions{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := "root"
		for _, k := range []string{"manifests", "blobs", "tags", "referrers", "_catalog"} {
			if strings.Contains(r.URL.Path, "/"+k) {
				kind = k
			}
		}
		s.mu.Lock()
		s.asked[r.Method+" "+kind]++
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil && refuse(w, r) {
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	var err error
	if s.client, err = remote.New(server.URL, server.Client()); err != nil {
		t.Fatal(err)
	}
	return s
}

// requests returns what was asked since it was called last.
func (s *served) requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = map[string]int{}
	return asked
}

func (s *served) setRefuse(refuse func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

// newWorker makes a worker of jobs that copy from up into here.
func newWorker(t testing.TB, up Upstream, here *store, jobs ...Job) *Worker {
	t.Helper()
	sources := map[string]Upstream{"hub": up}
	w := New(sources, here.local, here.meta, Options{})
	if err := w.SetJobs(sources, jobs); err != nil {
		t.Fatal(err)
	}
	return w
}

// mirror runs the job, and returns how it has ended and the steps that it told of but
// those that keep.
func mirror(t testing.TB, w *Worker, dry bool) (RunStatus, []string) {
	t.Helper()
	var steps []string
	var counts Counts
	err := w.RunNow(context.Background(), "job", dry, func(e Event) {
		counts = e.Counts
		if e.Step != nil && e.Step.Action != Keep {
			for _, tag := range e.Step.Tags {
				steps = append(steps, fmt.Sprintf("%s %s:%s", e.Step.Action, e.Step.Repo, tag))
			}
		}
	})
	ended := (*RunError)(nil)
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	slices.Sort(steps)
	if dry {
		return RunStatus{Counts: counts}, steps
	}
	all, err := w.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all[0].Last, steps
}

func TestMirror(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("team/app", "one", nil, "1.0.0", "stable")
	up.image("team/app", "two", nil, "1.1.0", "latest")
	up.image("team/app", "three", nil, "2.0.0")
	up.image("team/deep/tool", "tool", nil, "1.0.5")
	up.image("other", "other", nil, "1.0.0")
	w := newWorker(t, Upstream{Source: up.client}, here,
		job(t, Spec{Prefix: "hub", Repos: []string{"team/**"}, Semver: "^1", Tags: []string{"stable"}, Prune: true}))

	want := []string{"copy hub/team/app:1.0.0", "copy hub/team/app:1.1.0", "copy hub/team/app:stable", "copy hub/team/deep/tool:1.0.5"}
	if _, steps := mirror(t, w, true); !slices.Equal(steps, want) {
		t.Errorf("dry run: %v, want %v", steps, want)
	}
	if got := here.tags("hub/team/app"); len(got) != 0 {
		t.Errorf("a dry run copied %v", got)
	}
	up.requests()
	last, steps := mirror(t, w, false)
	if last.Outcome != Good || !slices.Equal(steps, want) || last.Counts.Tags != 4 || last.Counts.Copied != 4 || last.Counts.Repos != 2 || last.Counts.Bytes < 200_000 {
		t.Errorf("run: %v %+v", steps, last)
	}
	for tag, d := range map[string]string{"1.0.0": "1.0.0", "stable": "1.0.0", "1.1.0": "1.1.0"} {
		if here.tags("hub/team/app")[tag] != up.tags("team/app")[d] {
			t.Errorf("%s is not what it is upstream", tag)
		}
	}
	if got := up.requests(); got["GET blobs"] != 3*2+2 { // three configs and layers, and the base in two repositories
		t.Errorf("requests: %v, want 8 blobs", got)
	}

	// Nothing has changed.
	last, _ = mirror(t, w, false)
	if got := up.requests(); last.Outcome != Good || last.Counts.Unchanged != 4 || last.Counts.Bytes != 0 || got["HEAD manifests"] != 4 || got["GET manifests"]+got["GET blobs"]+got["HEAD blobs"] != 0 {
		t.Errorf("unchanged: %+v, requests %v, want 4 HEADs", last.Counts, got)
	}

	// A tag moves, one is removed, one comes; one was never copied.
	up.image("team/app", "four", nil, "stable", "1.2.0")
	if err := up.local.DeleteTag(t.Context(), "team/app", "1.0.0"); err != nil {
		t.Fatal(err)
	}
	here.image("hub/team/app", "ours", nil, "1.0.9")
	last, steps = mirror(t, w, false)
	want = []string{"copy hub/team/app:1.2.0", "copy hub/team/app:stable", "remove hub/team/app:1.0.0"}
	if last.Outcome != Good || !slices.Equal(steps, want) || last.Counts.Removed != 1 {
		t.Errorf("changed: %v %+v, want %v", steps, last, want)
	}
	if got := slices.Sorted(maps.Keys(here.tags("hub/team/app"))); !slices.Equal(got, []string{"1.0.9", "1.1.0", "1.2.0", "stable"}) {
		t.Errorf("tags: %v", got)
	}
}

// What is asked of an upstream whose tags are named does not need its lists.
func TestExactTags(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("library/app", "one", nil, "v1")
	w := newWorker(t, Upstream{Source: up.client, Repo: func(s string) string { return "library/" + s }}, here,
		job(t, Spec{Prefix: "hub", Tags: []string{"v1", "v2"}}))
	last, _ := mirror(t, w, false)
	if last.Outcome != Failed || last.Counts.Copied != 1 || !slices.Equal(last.Failures, []Failure{{"hub/library/app", "v2", errNoTag.Error()}}) {
		t.Errorf("got %+v", last)
	}
	if got := up.requests(); got["GET tags"] != 0 || got["HEAD manifests"] != 2 {
		t.Errorf("requests: %v", got)
	}
	if len(here.tags("hub/library/app")) != 1 {
		t.Errorf("tags: %v", here.tags("hub/library/app"))
	}
}

func TestPlatforms(t *testing.T) {
	up, here := serve(t), newStore(t)
	root, images := up.index("app", "x", []string{"linux/amd64", "linux/arm64/v8", "linux/arm/v6", "windows/amd64"}, "v1")
	only, _ := up.index("app", "mips", []string{"linux/mips"}, "mips")
	single := up.image("app", "single", nil, "single")
	w := newWorker(t, Upstream{Source: up.client}, here,
		job(t, Spec{Tags: []string{"*"}, Prefix: "hub", Platforms: []string{"linux/amd64", "linux/arm64"}}))
	last, _ := mirror(t, w, false)
	if last.Counts.Copied != 2 || len(last.Failures) != 1 || !strings.Contains(last.Failures[0].Reason, "has none of the platforms linux/amd64, linux/arm64") {
		t.Errorf("got %+v", last)
	}
	if got := here.tags("hub/app"); got["v1"] != root.Digest || got["single"] != single.Digest || len(got) != 2 || here.has("hub/app", only.Digest) {
		t.Errorf("tags: %v", got)
	}
	for p, d := range images {
		if want := p == "linux/amd64" || p == "linux/arm64/v8"; here.has("hub/app", d.Digest) != want {
			t.Errorf("%s: is here is %v", p, !want)
		}
	}
	up.requests()
	if last, _ = mirror(t, w, false); last.Counts.Unchanged != 2 {
		t.Errorf("again: %+v", last.Counts)
	}

	// More platforms: what is missing comes, the index does not move.
	w = newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub"}))
	last, steps := mirror(t, w, false)
	if last.Outcome != Good || len(steps) != 1 || !here.has("hub/app", images["windows/amd64"].Digest) {
		t.Errorf("all platforms: %v, %+v", steps, last)
	}
}

// What clients pulled is there without all of it; it is completed.
func TestCompletesSparse(t *testing.T) {
	up, here := serve(t), newStore(t)
	d := up.image("app", "x", nil, "v1")
	data, _, err := up.local.Manifest(t.Context(), "app", registry.Reference{Digest: d.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.local.PushManifest(t.Context(), "hub/app", registry.ManifestPush{Data: data, Digest: d.Digest, Tags: []string{"v1"}, Sparse: true}); err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub"}))
	last, _ := mirror(t, w, false)
	if got := up.requests(); last.Counts.Copied != 1 || got["GET manifests"] != 0 || got["GET blobs"] != 3 {
		t.Errorf("%+v, requests %v", last, got)
	}
	if last, _ := mirror(t, w, false); last.Counts.Unchanged != 1 {
		t.Errorf("again: %+v", last)
	}
}

func TestReferrers(t *testing.T) {
	up, here := serve(t), newStore(t)
	root, images := up.index("app", "x", []string{"linux/amd64", "linux/arm64/v8"}, "v1")
	amd, arm := images["linux/amd64"], images["linux/arm64/v8"]
	subject := func(d registry.Descriptor) *registry.Descriptor {
		return &registry.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	}
	signature := up.image("app", "signature", subject(root))
	sbom := up.image("app", "sbom", subject(amd))
	theirs := up.image("app", "sbom of arm64", subject(arm))
	cosign := func(d registry.Descriptor, suffix string) string {
		return strings.Replace(string(d.Digest), ":", "-", 1) + suffix
	}
	up.image("app", "cosign", nil, cosign(root, ".sig"))
	up.image("app", "cosign of amd64", nil, cosign(amd, ".att"))
	up.image("app", "cosign of arm64", nil, cosign(arm, ".att"))
	up.image("app", "stranger", nil, "sha256-"+strings.Repeat("0", 64)+".sig")

	spec := Spec{Tags: []string{"*"}, Prefix: "hub", Platforms: []string{"linux/amd64"}}
	if last, _ := mirror(t, newWorker(t, Upstream{Source: up.client}, here, job(t, spec)), false); last.Outcome != Good || len(here.tags("hub/app")) != 1 || here.has("hub/app", signature.Digest) {
		t.Errorf("without referrers: %v, %+v", here.tags("hub/app"), last)
	}
	spec.Referrers = true
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, spec))
	last, _ := mirror(t, w, false)
	if last.Outcome != Good || last.Counts.Unchanged != 1 || last.Counts.Copied != 2 {
		t.Errorf("with referrers: %+v", last)
	}
	if got, want := slices.Sorted(maps.Keys(here.tags("hub/app"))), []string{cosign(root, ".sig"), cosign(amd, ".att"), "v1"}; !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("tags: %v, want %v", got, want)
	}
	for what, d := range map[string]registry.Descriptor{"signature": signature, "sbom": sbom} {
		if !here.has("hub/app", d.Digest) {
			t.Errorf("the %s is not here", what)
		}
	}
	if here.has("hub/app", theirs.Digest) {
		t.Error("what refers to a platform that is left out is here")
	}

	// A signature comes later.
	late := up.image("app", "late", subject(root))
	up.requests()
	last, _ = mirror(t, w, false)
	if got := up.requests(); last.Outcome != Good || !here.has("hub/app", late.Digest) || got["HEAD manifests"] != 3 {
		t.Errorf("late: %+v, requests %v", last, got)
	}
}

// One image that fails stops no other, and is tried again.
func TestOneFails(t *testing.T) {
	up, here := serve(t), newStore(t)
	for i := range 20 {
		up.image("app", fmt.Sprint("image ", i), nil, fmt.Sprint("v", i))
	}
	bad := string(digest.FromString(strings.Repeat("image 7", 1000)))
	up.setRefuse(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, bad) {
			http.Error(w, "broken", http.StatusInternalServerError)
			return true
		}
		return false
	})
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"*"}, Prefix: "hub"}))
	last, _ := mirror(t, w, false)
	if last.Outcome != Failed || last.Counts.Copied != 19 || last.Counts.Failed != 1 || len(last.Failures) != 1 || last.Failures[0].Tag != "v7" || last.Reason != "1 of 20 tags failed" {
		t.Errorf("got %+v", last)
	}
	all, err := w.Status(t.Context())
	if err != nil || all[0].Next.Sub(last.Ended) != time.Minute || !all[0].Good.IsZero() {
		t.Errorf("status: %+v, %v, want it to be tried again after a minute", all, err)
	}
	up.setRefuse(nil)
	up.requests()
	last, _ = mirror(t, w, false)
	if got := up.requests(); last.Outcome != Good || last.Counts.Unchanged != 19 || last.Counts.Copied != 1 || got["GET blobs"] > 2 {
		t.Errorf("again: %+v, requests %v", last, got)
	}
}

// Bytes that are not what they should be never come to be a tag.
func TestWrongBytes(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("app", "x", nil, "v1")
	bad := string(digest.FromString(strings.Repeat("x", 1000)))
	up.setRefuse(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, bad) {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte("y"), 1000))
		return true
	})
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"*"}, Prefix: "hub"}))
	last, _ := mirror(t, w, false)
	if last.Outcome != Failed || len(here.tags("hub/app")) != 0 {
		t.Errorf("got %+v, tags %v", last, here.tags("hub/app"))
	}
}

// A thousand tags that are unchanged cost a thousand HEADs, and one of a hundred
// repositories is as good as another.
func TestThousandTags(t *testing.T) {
	up, here := serve(t), newStore(t)
	d := up.image("app", "x", nil)
	data, _, err := up.local.Manifest(t.Context(), "app", registry.Reference{Digest: d.Digest})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := up.local.PushManifest(t.Context(), "app", registry.ManifestPush{Data: data, Digest: d.Digest, Tags: []string{fmt.Sprintf("1.0.%d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Semver: "1.x", Prefix: "hub"}))
	last, _ := mirror(t, w, false)
	if got := up.requests(); last.Counts.Copied != 1000 || got["GET blobs"] != 3 || got["GET manifests"] != 1 || got["HEAD manifests"] != 1000 {
		t.Errorf("%+v, requests %v", last, got)
	}
	last, _ = mirror(t, w, false)
	if got := up.requests(); last.Counts.Unchanged != 1000 || got["GET blobs"]+got["GET manifests"] != 0 || got["HEAD manifests"] != 1000 || got["GET tags"] > 2 {
		t.Errorf("again: %+v, requests %v", last, got)
	}
}

// A run that is cut short anywhere shows nothing that is not whole, and the next ones
// do the rest.
func TestCutShort(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.index("app", "a", []string{"linux/amd64", "linux/arm64"}, "a")
	for i := range 10 {
		up.image("app", fmt.Sprint("image ", i), nil, fmt.Sprint("v", i))
	}
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"*"}, Prefix: "hub", Jobs: 3}))
	total := 0
	for after := 1; ; after += 3 {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		stopped := after
		up.setRefuse(func(http.ResponseWriter, *http.Request) bool {
			up.mu.Lock()
			defer up.mu.Unlock()
			if n++; n == stopped {
				cancel()
			}
			return false
		})
		err := w.RunNow(ctx, "job", false, nil)
		cancel()
		checkWhole(t, here, "hub/app")
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if total++; total > 200 {
			t.Fatal("it comes to no end")
		}
	}
	if got, want := here.tags("hub/app"), up.tags("app"); !maps.Equal(got, want) || total < 3 {
		t.Errorf("after %d runs that were cut short: %v, want %v", total, got, want)
	}
	// Bytes that were there were not sent again but for those under way, three at most.
	if got, most := up.requests()["GET blobs"], 2*12+1+3*total; got > most {
		t.Errorf("%d blobs were sent in %d runs, want at most %d", got, total, most)
	}
}

// checkWhole checks that each tag of a repository leads to all that it should.
func checkWhole(t *testing.T, s *store, repo string) {
	t.Helper()
	for tag, d := range s.tags(repo) {
		l, err := newWorkerOf(s).here(context.Background(), repo, tag, d, false)
		if err != nil || !l.Whole {
			t.Fatalf("%s is not whole: %+v, %v", tag, l, err)
		}
	}
}

func newWorkerOf(s *store) *run {
	return newRun(Job{Spec: Spec{Jobs: 1}}, Upstream{}, New(nil, s.local, s.meta, Options{}), nil)
}

// limited is an upstream's error that says when to come again, as its client gives it.
type limited struct{ wait string }

func (limited) Error() string { return "mirror hub: too many requests" }

func (l limited) Header() http.Header { return http.Header{"Retry-After": {l.wait}} }

// limitedSource is a Source that says so of the first requests for manifests.
type limitedSource struct {
	Source
	mu   sync.Mutex
	left int
	wait string
}

func (s *limitedSource) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	s.mu.Lock()
	s.left--
	refuse := s.left >= 0
	s.mu.Unlock()
	if refuse {
		return registry.Descriptor{}, limited{s.wait}
	}
	return s.Source.StatManifest(ctx, repo, ref)
}

func TestLimited(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("app", "x", nil, "v1")
	s := &limitedSource{Source: up.client, left: 1, wait: "1"}
	w := newWorker(t, Upstream{Source: s}, here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub"}))
	begin := time.Now()
	last, _ := mirror(t, w, false)
	if took := time.Since(begin); last.Outcome != Good || took < 900*time.Millisecond {
		t.Errorf("got %+v after %s, want it to wait for a second", last, took)
	}
	s.left, s.wait = 1, "7200"
	last, _ = mirror(t, w, false)
	all, err := w.Status(t.Context())
	if err != nil || last.Outcome != Postponed || last.Reason != "mirror hub: too many requests" || all[0].Next.Sub(last.Ended).Round(time.Minute) != 2*time.Hour {
		t.Errorf("got %+v, %+v, want it to go on in two hours", last, all)
	}
	last, _ = mirror(t, w, false)
	if last.Outcome != Good {
		t.Errorf("after that: %+v", last)
	}
	w.sources["hub"] = Upstream{Source: s, Unavailable: func() error { return limited{"3600"} }}
	up.requests()
	last, _ = mirror(t, w, false)
	if got := up.requests(); last.Outcome != Postponed || len(got) != 0 {
		t.Errorf("while it is not to be asked: %+v, requests %v", last, got)
	}
}

func TestRate(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("app", "x", nil, "v1") // 201 kB
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub", Rate: 200_000}))
	begin := time.Now()
	last, _ := mirror(t, w, false)
	if took := time.Since(begin); last.Outcome != Good || took < 500*time.Millisecond {
		t.Errorf("200 kB at 200 kB/s, 64 kB at once, took %s: %+v", took, last)
	}
}

// An upstream that lists what no registry would is no harm.
func TestHostileLists(t *testing.T) {
	up, here := serve(t), newStore(t)
	up.image("team/app", "x", nil, "v1")
	s := &hostile{Source: up.client}
	w := newWorker(t, Upstream{Source: s}, here, job(t, Spec{Repos: []string{"**"}, Tags: []string{"*"}, Prefix: "hub"}))
	last, _ := mirror(t, w, false)
	if last.Outcome != Good || last.Counts.Copied != 1 || last.Counts.Repos != 1 {
		t.Errorf("got %+v", last)
	}
	s.endless = true
	last, _ = mirror(t, w, false)
	if last.Outcome != Failed || len(last.Failures) != 1 || !strings.Contains(last.Failures[0].Reason, "more than 100000") {
		t.Errorf("got %+v", last)
	}
}

type hostile struct {
	Source
	endless bool
}

func (h *hostile) Repositories(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, name := range []string{"../../etc", "team/app", "A", "", strings.Repeat("a/", 200) + "a"} {
			if !yield(name, nil) {
				return
			}
		}
	}
}

func (h *hostile) Tags(context.Context, string, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, tag := range []string{"../v1", "v1", "", "a b", strings.Repeat("a", 1000)} {
			if !yield(tag, nil) {
				return
			}
		}
		for i := 0; h.endless; i++ {
			if !yield(fmt.Sprint("t", i), nil) {
				return
			}
		}
	}
}

// brokenMeta fails.
type brokenMeta struct{ storage.Meta }

func (brokenMeta) View(context.Context, func(storage.Tx) error) error {
	return fmt.Errorf("open /var/lib/secret: %w", storage.ErrNoSpace)
}

func (brokenMeta) Update(context.Context, func(storage.Tx) error) error {
	return fmt.Errorf("open /var/lib/secret: %w", storage.ErrNoSpace)
}

// noRoom is a target that is full.
type noRoom struct{ Target }

func (noRoom) StatManifest(context.Context, string, registry.Reference) (registry.Descriptor, error) {
	return registry.Descriptor{}, fmt.Errorf("write /var/lib/secret: %w", storage.ErrNoSpace)
}

// A store that is full ends the run, and its paths are nobody's business.
func TestFull(t *testing.T) {
	up, here := serve(t), newStore(t)
	for i := range 100 {
		up.image("app", "x", nil, fmt.Sprint("v", i))
	}
	w := newWorker(t, Upstream{Source: up.client}, here, job(t, Spec{Tags: []string{"*"}, Jobs: 1}))
	w.target = noRoom{here.local}
	last, _ := mirror(t, w, false)
	if got := up.requests(); last.Outcome != Failed || !strings.Contains(last.Reason, "disk is full") || strings.Contains(fmt.Sprint(last), "secret") || got["HEAD manifests"] > 5 {
		t.Errorf("got %+v, requests %v", last, got)
	}
	w.meta = brokenMeta{here.meta}
	if err := w.RunNow(t.Context(), "job", false, nil); !errors.Is(err, storage.ErrNoSpace) {
		t.Errorf("a job that cannot be written down: %v", err)
	}
}
