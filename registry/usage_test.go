package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// under is a quota of the repositories below a name.
func under(name string, bytes int64, tags int) registry.Quota {
	return registry.Quota{
		Name: name + "/**", Bytes: bytes, Tags: tags,
		Match: func(repo string) bool { return name == "" || strings.HasPrefix(repo, name+"/") },
	}
}

// counts is what is used, counted from the rows of the store.
type counts struct {
	repos  map[string]registry.Usage
	total  registry.Usages
	quotas []registry.QuotaUsage
}

// each is the values of a sequence that does not fail.
func each[V any](t *testing.T, rows iter.Seq2[V, error]) iter.Seq[V] {
	t.Helper()
	return func(yield func(V) bool) {
		for v, err := range rows {
			if err != nil {
				t.Error(err)
				return
			}
			if !yield(v) {
				return
			}
		}
	}
}

// countRows counts by brute force.
func countRows(t *testing.T, meta storage.Meta, quotas ...registry.Quota) counts {
	t.Helper()
	c := counts{repos: map[string]registry.Usage{}}
	err := meta.View(context.Background(), func(tx storage.Tx) error {
		holds := map[string]map[string]int64{} // by digest and repository
		note := func(key []byte, size int64) (repo string) {
			repo, part, _ := strings.Cut(string(key), "\x00")
			if holds[part] == nil {
				holds[part] = map[string]int64{}
			}
			holds[part][repo] = size
			return repo
		}
		tags := map[string]int64{}
		for e := range each(t, storage.Links.Scan(tx, nil, nil)) {
			note(e.Key, e.Value.Size)
		}
		for e := range each(t, storage.Manifests.Scan(tx, nil, nil)) {
			u := c.repos[note(e.Key, e.Value.Size)]
			repo, _, _ := strings.Cut(string(e.Key), "\x00")
			u.Manifests++
			c.repos[repo] = u
		}
		for e := range each(t, storage.Tags.Scan(tx, nil, nil)) {
			repo, _, _ := strings.Cut(string(e.Key), "\x00")
			u := c.repos[repo]
			u.Tags++
			c.total.Tags++
			c.repos[repo] = u
			tags[repo]++
		}
		for _, of := range holds {
			for repo, size := range of {
				u := c.repos[repo]
				u.Repo = repo
				u.Bytes += size
				c.total.Sum += size
				if len(of) == 1 {
					u.Own += size
				}
				c.repos[repo] = u
			}
			for _, size := range of {
				c.total.Bytes += size
				break
			}
		}
		for _, q := range quotas {
			used := registry.QuotaUsage{Name: q.Name, Counted: true, MaxBytes: q.Bytes, MaxTags: q.Tags}
			for _, of := range holds {
				for repo, size := range of {
					if q.Match(repo) {
						used.Bytes += size
						break
					}
				}
			}
			for repo, n := range tags {
				if q.Match(repo) {
					used.Tags += n
				}
			}
			c.quotas = append(c.quotas, used)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.total.Counted = true
	maps.DeleteFunc(c.repos, func(_ string, u registry.Usage) bool { return u.Bytes == 0 && u.Tags == 0 })
	return c
}

// kept is what is used, as the registry keeps it.
func kept(t *testing.T, l *registry.Local) counts {
	t.Helper()
	c := counts{repos: map[string]registry.Usage{}}
	for u, err := range l.Usage(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		c.repos[u.Repo] = u
	}
	var err error
	if c.total, err = l.Usages(context.Background()); err != nil {
		t.Fatal(err)
	}
	if c.quotas, err = l.QuotaUsage(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c
}

// checkCounts compares what is kept with what there is.
func checkCounts(t *testing.T, when string, l *registry.Local, meta storage.Meta, quotas ...registry.Quota) {
	t.Helper()
	got, want := kept(t, l), countRows(t, meta, quotas...)
	slices.SortFunc(want.quotas, func(a, b registry.QuotaUsage) int { return strings.Compare(a.Name, b.Name) })
	if !maps.Equal(got.repos, want.repos) {
		t.Errorf("%s: repositories\nkept:  %+v\nthere: %+v", when, got.repos, want.repos)
	}
	if got.total != want.total {
		t.Errorf("%s: all together\nkept:  %+v\nthere: %+v", when, got.total, want.total)
	}
	if !slices.Equal(got.quotas, want.quotas) {
		t.Errorf("%s: quotas\nkept:  %+v\nthere: %+v", when, got.quotas, want.quotas)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// steps does random things to a registry.
type steps struct {
	*registry.Local
	rand  *rand.Rand
	repos []string
}

func newSteps(l *registry.Local, seed uint64) *steps {
	return &steps{l, rand.New(rand.NewPCG(seed, 1)), []string{"a/x", "a/y", "b/x", "b/y/z", "c"}}
}

func (s *steps) repo() string { return s.repos[s.rand.IntN(len(s.repos))] }
func (s *steps) text() string { return strings.Repeat("x", s.rand.IntN(12)) }

// expected lists what a step may fail with.
var expected = []error{
	registry.ErrBlobUnknown, registry.ErrManifestUnknown, registry.ErrManifestBlobUnknown, registry.ErrReferenced,
	registry.ErrQuota, registry.ErrManifestInvalid, registry.ErrUnavailable,
}

// step does one thing, and says which.
func (s *steps) step(ctx context.Context) (what string, err error) {
	repo, text := s.repo(), s.text()
	d := digest.FromString(text)
	tag := fmt.Sprintf("v%d", s.rand.IntN(4))
	switch s.rand.IntN(10) {
	case 0, 1:
		what = fmt.Sprintf("push of %q to %s", text, repo)
		_, err = s.PushBlob(ctx, repo, d, strings.NewReader(text))
	case 2:
		what = fmt.Sprintf("upload of %q to %s", text, repo)
		var id string
		if id, err = s.StartUpload(ctx, repo, digest.SHA256); err == nil {
			_, err = s.CommitUpload(ctx, repo, id, registry.Chunk{}, strings.NewReader(text), d)
		}
	case 3:
		what = fmt.Sprintf("mount of %q in %s", text, repo)
		_, err = s.MountBlob(ctx, repo, "", d)
	case 4, 5:
		what = "image in " + repo
		err = s.image(ctx, repo, text, []string{tag, "latest"}[:s.rand.IntN(3)])
	case 6:
		what = "manifest as a blob of " + repo // one digest in two ways
		data := imageOf(text)
		_, err = s.PushBlob(ctx, repo, digest.FromBytes(data), strings.NewReader(string(data)))
	case 7:
		what = fmt.Sprintf("tag %s of %s goes", tag, repo)
		err = s.DeleteTag(ctx, repo, tag)
	case 8:
		what = "manifest of " + repo + " goes"
		err = s.DeleteManifest(ctx, repo, digest.FromBytes(imageOf(text)))
	default:
		what = fmt.Sprintf("blob %q of %s goes", text, repo)
		err = s.DeleteBlob(ctx, repo, d)
	}
	for _, e := range expected {
		if errors.Is(err, e) {
			return what, nil
		}
	}
	return what, err
}

func imageOf(layer string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
		digest.FromString("{}"), digest.FromString(layer), len(layer))
}

func (s *steps) image(ctx context.Context, repo, layer string, tags []string) error {
	for _, text := range []string{"{}", layer} {
		if _, err := s.PushBlob(ctx, repo, digest.FromString(text), strings.NewReader(text)); err != nil {
			return err
		}
	}
	data := imageOf(layer)
	_, err := s.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: digest.FromBytes(data), Tags: tags})
	return err
}

// TestUsageModel does random things, and compares what is kept after each with what
// there is.
func TestUsageModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newCollected(t)
			quotas := []registry.Quota{under("a", 0, 0), under("b", 900, 3), under("", 1500, 6)}
			c.SetQuotas(quotas)
			s := newSteps(c.Local, seed)
			for range 150 {
				what, err := s.step(t.Context())
				if s.rand.IntN(10) == 0 {
					c.pass(10 * time.Hour)
					what, err = "collection", c.Collect(t.Context(), s.rand.IntN(2) == 0, nil)
				}
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				checkCounts(t, what, c.Local, c.meta, quotas...)
			}
			for _, repo := range s.repos {
				for i := range 4 {
					for _, tag := range []string{fmt.Sprintf("v%d", i), "latest"} {
						if err := c.DeleteTag(t.Context(), repo, tag); err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
							t.Fatal(err)
						}
					}
				}
			}
			c.rest()
			checkCounts(t, "at the end", c.Local, c.meta, quotas...)
			if got := kept(t, c.Local); len(got.repos) > 0 || got.total != (registry.Usages{Counted: true}) {
				t.Errorf("left: %+v", got)
			}
			if n := rows(t, c.meta, storage.Shares.Name()); n > 0 {
				t.Errorf("%d rows of shares are left", n)
			}
		})
	}
}

func rows(t *testing.T, meta storage.Meta, table string) (n int) {
	t.Helper()
	if err := meta.View(context.Background(), func(tx storage.Tx) error {
		n = 0
		for _, err := range tx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRecountWhilePushesRun counts an old store, and new quotas, while everything
// changes.
func TestRecountWhilePushesRun(t *testing.T) {
	ctx := t.Context()
	c := newCollected(t)
	for i := range 1500 { // more than is counted at once
		repo := fmt.Sprintf("a/many%d", i%40)
		if _, err := c.PushBlob(ctx, repo, digest.FromString(fmt.Sprint(i/3)), strings.NewReader(fmt.Sprint(i/3))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1200 { // a digest that more hold than are counted at once
		if _, err := c.PushBlob(ctx, fmt.Sprintf("b/r%d", i), digest.FromString("{}"), strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
	}
	forget(t, c.meta)
	if u, err := c.Usages(ctx); err != nil || u.Counted {
		t.Fatalf("%+v, %v: want it not counted", u, err)
	}
	quotas := []registry.Quota{under("a", 0, 0), under("b", 0, 0)}
	for round := range 3 {
		c.SetQuotas(quotas)
		var work sync.WaitGroup
		for i := range uint64(3) {
			s := newSteps(c.Local, i)
			for n := range 40 {
				s.repos = append(s.repos, fmt.Sprintf("a/many%d", n), fmt.Sprintf("b/r%d", n*30))
			}
			work.Go(func() {
				for range 300 {
					if what, err := s.step(ctx); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
		work.Go(func() {
			for i := 0; ; i++ {
				short, cancel := context.WithCancel(ctx)
				if i < 3 { // given up
					cancel()
				}
				err := c.Recount(short)
				cancel()
				if err == nil {
					return
				}
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
					return
				}
			}
		})
		work.Wait()
		if err := c.Recount(ctx); err != nil {
			t.Fatal(err)
		}
		checkCounts(t, fmt.Sprintf("round %d", round), c.Local, c.meta, quotas...)
		quotas = append(quotas[1:], under(fmt.Sprintf("a/many%d", round), 0, 0), under([]string{"", "c", "b"}[round], 0, 0))
		if round == 1 {
			if err := c.Uncount(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.SetQuotas(nil)
	if err := c.Recount(ctx); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, c.meta, storage.Shares.Name()); n > 0 {
		t.Errorf("%d rows of quotas are left that are gone", n)
	}
	checkCounts(t, "without quotas", c.Local, c.meta)
}

// forget makes a store as it was before anything was counted.
func forget(t *testing.T, meta storage.Meta) {
	t.Helper()
	err := meta.Update(context.Background(), func(tx storage.Tx) error {
		for _, table := range []string{storage.Usages.Name(), storage.Tallies.Name(), storage.Shares.Name()} {
			var keys [][]byte
			for row := range each(t, tx.Scan(table, nil, nil)) {
				keys = append(keys, slices.Clone(row.Key))
			}
			for _, key := range keys {
				if err := tx.Delete(table, key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOtherQuotas has a registry without the quotas change the store: what was
// counted for them is forgotten, not wrong.
func TestOtherQuotas(t *testing.T) {
	c := newCollected(t)
	quotas := []registry.Quota{under("a", 100, 0)}
	c.SetQuotas(quotas)
	c.blob("a/x", "one")
	other, err := registry.NewLocal(t.Context(), c.blobs, c.meta, registry.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	text := "two and two"
	if _, err := other.PushBlob(t.Context(), "a/x", digest.FromString(text), strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	c.blob("a/y", "three")
	if used, err := c.QuotaUsage(t.Context()); err != nil || used[0].Counted {
		t.Errorf("%+v, %v: want it not counted", used, err)
	}
	if err := c.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkCounts(t, "counted again", c.Local, c.meta, quotas...)
}

var errLost = errors.New("lost")

// losing is a store that fails at the end of some transactions.
type losing struct {
	storage.Meta
	left int
}

func (l *losing) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return l.Meta.Update(ctx, func(tx storage.Tx) error {
		err := fn(tx)
		if l.left--; err == nil && l.left%3 == 0 {
			return errLost
		}
		return err
	})
}

// TestUsageOfFailed counts nothing of a transaction that fails.
func TestUsageOfFailed(t *testing.T) {
	meta := &losing{Meta: mem.NewMeta(), left: 1 << 20}
	var l *registry.Local
	for l == nil {
		l, _ = registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	}
	t.Cleanup(l.Close)
	s := newSteps(l, 1)
	for range 300 {
		what, err := s.step(t.Context())
		if err != nil && !errors.Is(err, errLost) {
			t.Fatalf("%s: %v", what, err)
		}
		checkCounts(t, what, l, meta)
	}
}

// sized is a reader that says how long it is, and must not be read if it is too
// long.
type sized struct {
	io.Reader
	n    int64
	read bool
}

func (s *sized) Length() int64 { return s.n }

func (s *sized) Read(p []byte) (int, error) {
	s.read = true
	return s.Reader.Read(p)
}
