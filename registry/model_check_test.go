package registry_test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// mustRead reads a manifest and all that it needs, which must be there.
func (w *world) mustRead(k content, when string) {
	w.t.Helper()
	data, desc, err := w.Manifest(w.t.Context(), k.repo, registry.Reference{Digest: k.digest})
	if err == nil && (digest.FromBytes(data) != k.digest || desc.Size != int64(len(data))) {
		err = fmt.Errorf("it has become %+v with %d bytes", desc, len(data))
	}
	w.mu.Lock()
	m := *w.manifests[k]
	w.mu.Unlock()
	if err != nil {
		w.fail(append([]digest.Digest{k.digest}, m.refs...), "manifest %s of %s must be there %s: %v", short(k.digest), k.repo, when, err)
		return
	}
	for _, ref := range m.refs {
		if m.index {
			w.mustRead(content{k.repo, ref}, when)
			continue
		}
		f, _, err := w.Blob(w.t.Context(), k.repo, ref)
		if err == nil {
			var data []byte
			if data, err = io.ReadAll(f); err == nil && digest.FromBytes(data) != ref {
				err = fmt.Errorf("it has become %q", data)
			}
			_ = f.Close()
		}
		if err != nil {
			w.fail([]digest.Digest{ref, k.digest}, "blob %s of %s must be there %s, for %s: %v", short(ref), k.repo, when, short(k.digest), err)
		}
	}
}

// checkThere reads all that must be there: what tags name or have named lately, what
// nodes run, and what is stable.
func (w *world) checkThere(when string) {
	w.t.Helper()
	now := w.Now()
	must := w.known(func(_ content, m *modelManifest) bool { return m.stable })
	w.mu.Lock()
	for t, moves := range w.tags {
		for i, m := range moves {
			later := len(moves) - i - 1
			if m.digest != "" && !m.gone && (later <= w.keeping.Moves || now.Before(moves[i+1].since.Add(w.keeping.History))) {
				must = append(must, content{t.repo, m.digest})
			}
		}
	}
	for _, n := range w.nodes {
		for _, k := range n.runs {
			if k.digest != "" && now.Before(n.until) {
				must = append(must, k)
			}
		}
	}
	w.mu.Unlock()
	for _, k := range must {
		w.mustRead(k, when)
	}
}

// roots are the manifests that tags keep, once time keeps nothing.
func (w *world) roots() (all []content) {
	for t, moves := range w.tags {
		for _, m := range moves[max(0, len(moves)-1-w.keeping.Moves):] {
			if m.digest != "" && !m.gone {
				all = append(all, content{t.repo, m.digest})
			}
		}
	}
	return all
}

// tables are rows as texts, by table. A digest in a key is written out.
type tables map[string]map[string]string

func (s tables) put(table, value string, key ...string) {
	if s[table] == nil {
		s[table] = map[string]string{}
	}
	s[table][strings.Join(key, " ")] = value
}

// read reads the rows that the model can tell, and which manifests there are.
func (w *world) read() (got tables, there map[content]storage.Manifest, kept map[content]bool) {
	w.t.Helper()
	got, there, kept = tables{}, map[content]storage.Manifest{}, map[content]bool{}
	reviews := map[string]bool{}
	watch := func(kind storage.ReviewKind, repo string, d digest.Digest, row storage.Watch) {
		if row.Due != 0 {
			key := string(storage.ReviewKey(row.Due, kind, repo, d))
			if !reviews[key] {
				w.fail([]digest.Digest{d}, "%s %s is to be reviewed by its row, kind %d, and no review is queued", repo, short(d), kind)
			}
			delete(reviews, key)
			kept[content{fmt.Sprintf("%d %s", kind, repo), d}] = true
		}
	}
	err := w.meta.View(w.t.Context(), func(tx storage.Tx) error {
		return firstError(
			eachRow(tx, storage.Reviews, 0, func(key string, _ []digest.Digest, _ storage.Review) { reviews[key] = true }),
			eachRow(tx, storage.Manifests, 1, func(repo string, ds []digest.Digest, m storage.Manifest) {
				there[content{repo, ds[0]}] = m
				watch(storage.ReviewManifest, repo, ds[0], m.Watch)
			}),
			eachRow(tx, storage.Links, 1, func(repo string, ds []digest.Digest, l storage.Link) {
				got.put("links", fmt.Sprint(l.Size), repo, short(ds[0]))
				watch(storage.ReviewLink, repo, ds[0], l.Watch)
			}),
			eachRow(tx, storage.Parents, 2, func(repo string, ds []digest.Digest, _ storage.Mark) { got.put("parents", "", repo, shorts(ds)) }),
			eachRow(tx, storage.Referrers, 2, func(repo string, ds []digest.Digest, _ storage.Referrer) { got.put("referrers", "", repo, shorts(ds)) }),
			eachRow(tx, storage.Stored, -1, func(_ string, ds []digest.Digest, b storage.Blob) {
				got.put("stored", fmt.Sprintf("%d %t", b.Size, b.Deleting), short(ds[0]))
				watch(storage.ReviewBlob, "", ds[0], b.Watch)
			}),
			eachRow(tx, storage.Holders, -1, func(repo string, ds []digest.Digest, _ storage.Mark) { got.put("holders", "", repo, short(ds[0])) }),
			eachRow(tx, storage.Tags, 0, func(key string, _ []digest.Digest, t storage.Tag) {
				got.put("tags", short(digest.Digest(t.Digest)), spaced(key))
			}),
			eachRow(tx, storage.Tagged, 1, func(rest string, ds []digest.Digest, _ storage.Mark) {
				got.put("tagged", "", spaced(rest), short(ds[0]))
			}),
			eachRow(tx, storage.Past, 1, func(rest string, ds []digest.Digest, _ storage.Mark) {
				repo, _, _ := strings.Cut(rest, "\x00")
				if _, ok := there[content{repo, ds[0]}]; !ok {
					got.put("past of what is gone", "", repo, short(ds[0]))
				}
			}),
			eachRow(tx, storage.RunningOn, -1, func(node string, ds []digest.Digest, _ storage.NodeLease) { got.put("running", "", node, short(ds[0])) }),
			eachRow(tx, storage.Runs, 1, func(node string, ds []digest.Digest, _ storage.Mark) { got.put("runs", "", node, short(ds[0])) }),
			eachRow(tx, storage.Nodes, 0, func(node string, _ []digest.Digest, _ storage.Node) { got.put("nodes", "", node) }),
			eachRow(tx, storage.Uploads, 0, func(id string, _ []digest.Digest, _ storage.Upload) { got.put("uploads", "", id) }),
			eachRow(tx, storage.Repos, 0, func(repo string, _ []digest.Digest, r storage.Repo) { got.put("repos", fmt.Sprint(r.Manifests), repo) }),
			eachRow(tx, storage.Usages, 0, func(repo string, _ []digest.Digest, u storage.Usage) {
				got.put("usage", fmt.Sprint(u.Bytes, u.Own, u.Tags), repo)
			}),
		)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for key := range reviews {
		w.fail(nil, "a review is queued that no row knows: %q", key)
	}
	return got, there, kept
}

func spaced(key string) string { return strings.ReplaceAll(key, "\x00", " ") }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// eachRow reads the rows of a table whose keys have a name and then digests; with -1, a
// digest and then a name, or nothing.
func eachRow[V any](tx storage.Tx, table storage.Table[V], digests int, fn func(name string, ds []digest.Digest, row V)) error {
	for e, err := range table.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		key := e.Key
		var ds []digest.Digest
		var name string
		if digests > 0 {
			var rest []byte
			name, rest = cutName(key)
			for range digests {
				d, after, err := storage.CutDigest(rest)
				if err != nil {
					return err
				}
				ds = append(ds, d)
				if rest = after; len(rest) > 0 && rest[0] == 0 {
					rest = rest[1:]
				}
			}
			if len(rest) > 0 {
				name += "\x00" + string(rest)
			}
		} else if name = string(key); digests < 0 {
			d, rest, err := storage.CutDigest(key)
			if err != nil {
				return err
			}
			ds, name = []digest.Digest{d}, strings.TrimPrefix(string(rest), "\x00")
		}
		fn(name, ds, e.Value)
	}
	return nil
}

func cutName(key []byte) (string, []byte) {
	name, rest, _ := strings.Cut(string(key), "\x00")
	return name, []byte(rest)
}

// checkRows compares the rows with what the model says that they must be, given the
// manifests that there are; with collected, also that there are no others than are
// needed.
func (w *world) checkRows(collected bool) {
	w.t.Helper()
	got, there, watched := w.read()
	w.mu.Lock()
	needed, want := w.needed(there), w.want(there)
	w.mu.Unlock()
	for k := range there {
		if !needed[k] && collected {
			w.fail([]digest.Digest{k.digest}, "manifest %s of %s should be gone", short(k.digest), k.repo)
		}
		if !w.leads(k, there) && !watched[content{"1 " + k.repo, k.digest}] {
			w.fail([]digest.Digest{k.digest}, "manifest %s of %s is garbage, and no review is queued", short(k.digest), k.repo)
		}
	}
	stored := map[string]bool{}
	var bytes int64
	for b, err := range w.blobs.List(w.t.Context(), "") {
		if err != nil {
			w.t.Fatal(err)
		}
		stored[short(b.Digest)] = true
		bytes += b.Size
		if size, ok := got["stored"][short(b.Digest)]; size != fmt.Sprintf("%d false", b.Size) {
			w.fail([]digest.Digest{b.Digest}, "%d bytes of %s are in the store, its row says %q, %t", b.Size, short(b.Digest), size, ok)
		}
	}
	if len(stored) != len(got["stored"]) {
		w.fail(nil, "%d blobs are in the store, and rows of %d", len(stored), len(got["stored"]))
	}
	stats, err := w.Stats(w.t.Context())
	if wantStats := (registry.Stats{
		Blobs: int64(len(stored)), Bytes: bytes, Manifests: int64(len(there)), Repos: int64(len(want["repos"])), Uploads: stats.Uploads,
	}); err != nil || stats != wantStats {
		w.fail(nil, "counted is %+v, %v; want %+v", stats, err, wantStats)
	}
	names := []string{"parents", "referrers", "tags", "tagged", "repos", "past of what is gone"}
	if collected {
		names = slices.Concat(names, []string{"links", "holders", "stored", "running", "runs", "nodes", "uploads", "usage"})
	}
	for _, name := range names {
		w.compare(name, got[name], want[name])
	}
}

func (w *world) compare(table string, got, want map[string]string) {
	w.t.Helper()
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if value, ok := want[key]; !ok || value != got[key] {
			w.fail(nil, "%s: row %q is %q, want %q, %t", table, key, got[key], value, ok)
		}
	}
	for key, value := range want {
		if _, ok := got[key]; !ok {
			w.fail(nil, "%s: row %q is not there, want %q", table, key, value)
		}
	}
}

// leads says whether anything that is there leads to a manifest: when that goes, a
// review is queued.
func (w *world) leads(k content, there map[content]storage.Manifest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := there[content{k.repo, w.manifests[k].subject}]; ok {
		return true
	}
	for t, moves := range w.tags {
		if t.repo == k.repo && moves[len(moves)-1].digest == k.digest {
			return true
		}
	}
	for other := range there {
		if other.repo == k.repo && slices.Contains(w.manifests[other].refs, k.digest) {
			return true
		}
	}
	return false
}

// needed is what must stay of the manifests that there are, once time keeps nothing.
func (w *world) needed(there map[content]storage.Manifest) map[content]bool {
	needed := map[content]bool{}
	var need func(k content)
	need = func(k content) {
		if _, ok := there[k]; !ok || needed[k] {
			return
		}
		needed[k] = true
		if m := w.manifests[k]; m.index {
			for _, ref := range m.refs {
				need(content{k.repo, ref})
			}
		}
		for other := range there {
			if other.repo == k.repo && w.manifests[other].subject == k.digest {
				need(other)
			}
		}
	}
	for _, k := range w.roots() {
		need(k)
	}
	return needed
}

// want is what the rows must be, given the manifests that there are.
func (w *world) want(there map[content]storage.Manifest) tables {
	want, repos := tables{}, map[string]int{}
	sizes, holders := map[string]int{}, map[string]map[string]bool{}
	hold := func(repo, d string, size int) {
		want.put("holders", "", repo, d)
		want.put("stored", fmt.Sprintf("%d false", size), d)
		if holders[d] == nil {
			holders[d] = map[string]bool{}
		}
		holders[d][repo], sizes[d] = true, size
	}
	for k := range there {
		m := w.manifests[k]
		repos[k.repo]++
		hold(k.repo, short(k.digest), len(m.data))
		for _, ref := range m.refs {
			want.put("parents", "", k.repo, shorts([]digest.Digest{ref, k.digest}))
			if !m.index {
				size := w.blobSize(ref)
				want.put("links", fmt.Sprint(size), k.repo, short(ref))
				hold(k.repo, short(ref), size)
			}
		}
		if m.subject != "" {
			want.put("referrers", "", k.repo, shorts([]digest.Digest{m.subject, k.digest}))
		}
	}
	tags := map[string]int{}
	for t, moves := range w.tags {
		if d := moves[len(moves)-1].digest; d != "" {
			want.put("tags", short(d), t.repo, t.tag)
			want.put("tagged", "", t.repo, t.tag, short(d))
			tags[t.repo]++
		}
	}
	for repo, n := range repos {
		want.put("repos", fmt.Sprint(n), repo)
		all, own := 0, 0
		for d, by := range holders {
			if by[repo] {
				if all += sizes[d]; len(by) == 1 {
					own += sizes[d]
				}
			}
		}
		want.put("usage", fmt.Sprint(all, own, tags[repo]), repo)
	}
	return want
}

// blobSize is how large a layer is, or a config.
func (w *world) blobSize(d digest.Digest) int {
	for i := range layerTexts {
		if text := layerText(i); digest.FromString(text) == d {
			return len(text)
		}
	}
	return len("{}")
}
