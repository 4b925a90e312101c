package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// modelClient does things at random.
type modelClient struct {
	*world
	*registry.Local // where the client is just now
	*rand.Rand
	ctx    context.Context //nolint:containedctx // of the test
	name   string
	images int // it has made
}

func newModelClient(w *world, i int) *modelClient {
	return &modelClient{w, w.Local, rand.New(rand.NewPCG(w.seed, uint64(i))), w.t.Context(), fmt.Sprintf("c%d", i), 0}
}

// told is that a client knows that content is there.
type told struct {
	content
	at      time.Time
	deletes int
	uses    int
	asked   bool // it was not the client who brought it
}

// tell begins to tell a client that content is there.
func (c *modelClient) tell(repo string, d digest.Digest) *told {
	at := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	k := content{repo, d}
	return &told{content: k, at: at, deletes: c.deletes[k], uses: c.uses[k]}
}

// excused says whether something may be gone that a client was told of.
func (c *modelClient) excused(all []*told) bool {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range all {
		if now.Sub(k.at) >= modelLease/2 || c.deletes[k.content] != k.deletes || !k.asked && c.uses[k.content] != k.uses {
			return true
		}
	}
	return false
}

// elsewhere has the client go to any of the servers.
func (c *modelClient) elsewhere() { c.Local = c.servers[c.IntN(len(c.servers))] }

func (c *modelClient) step() {
	c.elsewhere()
	repo := modelRepos[c.IntN(len(modelRepos))]
	switch n := c.IntN(100); {
	case n < 24:
		c.image(repo, c.tagsOrNone(), c.subject(repo))
	case n < 32:
		c.pushIndex(repo, c.tagsOrNone())
	case n < 42:
		c.tagAgain(repo)
	case n < 50:
		c.deleteTag(repo)
	case n < 56:
		c.deleteManifest(repo)
	case n < 62:
		c.deleteBlob(repo)
	case n < 68:
		c.ask(repo)
	case n < 73:
		c.report(repo)
	case n < 75:
		c.stable(repo)
	case n < 79:
		c.abandon(repo)
	case n < 87:
		c.collect()
	case n < 97:
		c.note("time passes")
		c.jump(time.Duration(c.IntN(20)) * time.Minute)
	default:
		c.jump(time.Duration(c.IntN(72)) * time.Hour)
	}
}

// jump has time pass; where several servers share what they store, not in the middle of
// a collection. What one of them deletes it has to itself for minutes and deletes in
// less, as true time goes: for it to take longer in the model would be another world.
func (c *modelClient) jump(d time.Duration) {
	if len(c.servers) > 1 {
		c.jumps.Lock()
		defer c.jumps.Unlock()
	}
	c.pass(d)
}

// collect collects, as the server does or as a command.
func (c *modelClient) collect() {
	c.elsewhere()
	c.jumps.RLock()
	defer c.jumps.RUnlock()
	var err error
	switch all := c.IntN(2) == 0; c.IntN(5) {
	case 0:
		_, err = c.Plan(c.ctx, all)
	case 1:
		var release func()
		if release, err = c.HoldCollection(c.ctx); err == nil {
			err = c.Collect(c.ctx, all, c.collected)
			release()
		}
	default:
		err = c.Collect(c.ctx, all, c.collected)
	}
	if err != nil {
		c.fail(nil, "collect: %v", err)
	}
}

func (c *modelClient) collected(done registry.Collected) {
	for _, g := range done.Removed {
		c.note("%s collected kind %d %s %s", c.name, g.Kind, g.Repo, short(g.Digest))
	}
	if done.Failed > 0 {
		c.fail(nil, "%d could not be deleted", done.Failed)
	}
}

func (c *modelClient) collectUntil(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		c.collect()
		runtime.Gosched()
	}
}

// readUntil reads what is stable again and again.
func (c *modelClient) readUntil(done <-chan struct{}) {
	for {
		for _, k := range c.known(func(_ content, m *modelManifest) bool { return m.stable }) {
			select {
			case <-done:
				return
			default:
			}
			c.mustRead(k, "while others work")
		}
		runtime.Gosched()
	}
}

// known lists manifests.
func (w *world) known(which func(content, *modelManifest) bool) (all []content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.list {
		if which(k, w.manifests[k]) {
			all = append(all, k)
		}
	}
	return all
}

// pick is one of the manifests pushed to a repository lately.
func (c *modelClient) pick(repo string, stable bool) (k content, m modelManifest, ok bool) {
	all := c.known(func(k content, m *modelManifest) bool { return k.repo == repo && (stable || !m.stable) })
	if len(all) == 0 {
		return k, m, false
	}
	all = all[max(0, len(all)-12):]
	k = all[c.IntN(len(all))]
	c.mu.Lock()
	defer c.mu.Unlock()
	return k, *c.manifests[k], true
}

func (c *modelClient) tagsOrNone() (tags []int) {
	for range c.IntN(3) {
		tags = append(tags, c.IntN(len(repoLocks{}.tags)))
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

func tagName(n int) string { return fmt.Sprintf("t%d", n) }

// layerTexts is how many layers there are: few, so that clients share them.
const layerTexts = 20

func layerText(i int) string { return fmt.Sprintf("layer %d", i) }

func (c *modelClient) layerText() string { return layerText(c.IntN(layerTexts)) }

// bring makes sure that a blob is there, in one of the ways that there are.
func (c *modelClient) bring(repo, text string) (registry.Descriptor, *told) {
	d := digest.FromString(text)
	desc := registry.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(text))}
	k := c.tell(repo, d)
	way := c.IntN(5)
	err := c.bringBy(way, repo, text, d, &k)
	for tries := 0; tries < 3 && errors.Is(err, registry.ErrUnavailable) && len(c.servers) > 1; tries++ {
		k = c.tell(repo, d) // the time has jumped: what was just stored may be gone
		err = c.bringBy(way, repo, text, d, &k)
	}
	c.note("%s brings %s %s by way %d: asked %t, %v", c.name, repo, short(d), way, k.asked, err)
	if err != nil {
		c.fail([]digest.Digest{d}, "%s brings blob %s to %s by way %d: %v", c.name, short(d), repo, way, err)
	}
	return desc, k
}

func (c *modelClient) bringBy(way int, repo, text string, d digest.Digest, k **told) (err error) {
	c.elsewhere()
	switch way {
	case 0, 1:
		if _, err = c.StatBlob(c.ctx, repo, d); err == nil {
			(*k).asked = true
			break
		}
		if !errors.Is(err, registry.ErrBlobUnknown) {
			break
		}
		*k = c.tell(repo, d)
		c.elsewhere()
		_, err = c.PushBlob(c.ctx, repo, d, strings.NewReader(text))
	case 2:
		from := ""
		if c.IntN(2) == 0 {
			from = modelRepos[c.IntN(len(modelRepos))]
		}
		if _, err = c.MountBlob(c.ctx, repo, from, d); errors.Is(err, registry.ErrBlobUnknown) {
			*k = c.tell(repo, d)
			_, err = c.PushBlob(c.ctx, repo, d, strings.NewReader(text))
		}
	case 3:
		err = c.upload(repo, text)
	default:
		_, err = c.PushBlob(c.ctx, repo, d, strings.NewReader(text))
	}
	return err
}

// upload pushes a blob in pieces.
func (c *modelClient) upload(repo, text string) error {
	id, err := c.StartUpload(c.ctx, repo, digest.SHA256)
	if err != nil {
		return err
	}
	at := c.IntN(len(text))
	if _, err := c.WriteUpload(c.ctx, repo, id, registry.Chunk{}, strings.NewReader(text[:at])); err != nil {
		return err
	}
	c.elsewhere()
	_, err = c.CommitUpload(c.ctx, repo, id, registry.Chunk{}, strings.NewReader(text[at:]), digest.FromString(text))
	return err
}

// abandon begins an upload and cancels it, or forgets it.
func (c *modelClient) abandon(repo string) {
	id, err := c.StartUpload(c.ctx, repo, digest.SHA256)
	if err == nil {
		_, err = c.WriteUpload(c.ctx, repo, id, registry.Chunk{}, strings.NewReader(c.layerText()))
	}
	if err == nil && c.IntN(2) == 0 {
		c.elsewhere()
		err = c.CancelUpload(c.ctx, repo, id)
	}
	if err != nil {
		c.fail(nil, "upload: %v", err)
	}
}

// subject is what an image may refer to: something, something that comes later, or
// mostly nothing.
func (c *modelClient) subject(repo string) digest.Digest {
	switch c.IntN(6) {
	case 0:
		if k, _, ok := c.pick(repo, true); ok {
			return k.digest
		}
	case 1:
		return digest.FromString(c.layerText()) // never
	}
	return ""
}

// image pushes an image with layers that it brings.
func (c *modelClient) image(repo string, tags []int, subject digest.Digest) (d digest.Digest, ok bool) {
	m := modelManifest{subject: subject}
	var list []string
	var relies []*told
	for i := range 1 + c.IntN(4) {
		text := "{}"
		if i > 0 {
			text = c.layerText()
		}
		desc, k := c.bring(repo, text)
		relies = append(relies, k)
		m.refs = append(m.refs, desc.Digest)
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, desc.MediaType, desc.Digest, desc.Size))
	}
	refers := ""
	if subject != "" {
		refers = fmt.Sprintf(`,"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}`, subject)
	}
	c.images++
	m.data = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":%s,"layers":[%s]%s,"annotations":{"by":"%s %d"}}`,
		list[0], strings.Join(list[1:], ","), refers, c.name, c.images)
	if c.IntN(4) == 0 {
		c.collect() // at the worst moment
	}
	return c.push(repo, &m, tags, relies)
}

// pushIndex pushes an index of manifests that are there.
func (c *modelClient) pushIndex(repo string, tags []int) {
	m := modelManifest{index: true}
	var list []string
	var relies []*told
	for range 1 + c.IntN(3) {
		k, _, ok := c.pick(repo, true)
		if !ok || slices.Contains(m.refs, k.digest) {
			continue
		}
		desc, k2, ok := c.statManifest(k)
		if !ok {
			continue
		}
		relies = append(relies, k2)
		m.refs = append(m.refs, k.digest)
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, desc.MediaType, k.digest, desc.Size))
	}
	c.images++
	m.data = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s],"annotations":{"by":"%s %d"}}`,
		strings.Join(list, ","), c.name, c.images)
	if c.IntN(4) == 0 {
		c.collect()
	}
	c.push(repo, &m, tags, relies)
}

// statManifest asks for a manifest.
func (c *modelClient) statManifest(k content) (registry.Descriptor, *told, bool) {
	t := c.tell(k.repo, k.digest)
	t.asked = true
	desc, err := c.StatManifest(c.ctx, k.repo, registry.Reference{Digest: k.digest})
	c.note("%s asks for %s %s: %v", c.name, k.repo, short(k.digest), err)
	if err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
		c.fail([]digest.Digest{k.digest}, "stat manifest: %v", err)
	}
	return desc, t, err == nil
}

// tagAgain has tags name a manifest that is there.
func (c *modelClient) tagAgain(repo string) {
	k, m, ok := c.pick(repo, true)
	if !ok {
		return
	}
	if _, t, ok := c.statManifest(k); ok {
		m.stable = false // it has its tag
		c.push(repo, &m, c.tagsOrNone(), []*told{t})
	}
}

// push pushes a manifest whose parts the client relies on.
func (c *modelClient) push(repo string, m *modelManifest, tags []int, relies []*told) (d digest.Digest, ok bool) {
	d = digest.FromBytes(m.data)
	locks := c.locks[repo]
	locks.all.RLock()
	defer locks.all.RUnlock()
	var names []string
	for _, tag := range tags {
		locks.tags[tag].Lock()
		defer locks.tags[tag].Unlock()
		names = append(names, tagName(tag))
	}
	if m.stable {
		names = append(names, fmt.Sprintf("stable-%s-%d", c.name, c.images))
	}
	return d, c.put(repo, d, m, names, relies)
}

// put pushes a manifest. The caller holds its tags.
func (c *modelClient) put(repo string, d digest.Digest, m *modelManifest, names []string, relies []*told) bool {
	k := content{repo, d}
	c.note("%s pushes %s %s as %v, subject %s, refs %s", c.name, repo, short(d), names, short(m.subject), shorts(m.refs))
	c.mu.Lock()
	if c.manifests[k] == nil { // it may be there from now on
		known := *m
		known.stable = false
		c.manifests[k], c.list = &known, append(c.list, k)
	}
	for _, ref := range m.refs {
		c.uses[content{repo, ref}]++
	}
	c.mu.Unlock()
	c.elsewhere()
	since := c.Now()
	push := func() error {
		_, err := c.PushManifest(c.ctx, repo, registry.ManifestPush{Data: m.data, Digest: d, Tags: names})
		return err
	}
	err := push()
	for tries := 0; tries < 3 && errors.Is(err, registry.ErrUnavailable) && len(c.servers) > 1; tries++ {
		err = push() // the time has jumped: what was just stored may be gone
	}
	if err != nil {
		if about := append([]digest.Digest{d}, m.refs...); !errors.Is(err, registry.ErrManifestBlobUnknown) || !c.excused(relies) {
			c.fail(about, "%s pushes manifest %s to %s, which needs what it was told to be there: %v", c.name, short(d), repo, err)
		}
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ref := range m.refs {
		c.uses[content{repo, ref}]++
	}
	subject := c.manifests[content{repo, m.subject}]
	c.manifests[k].stable = c.manifests[k].stable || m.stable || subject != nil && subject.stable
	for _, name := range names {
		t := tagged{repo, name}
		if moves := c.tags[t]; len(moves) == 0 || moves[len(moves)-1].digest != d {
			c.tags[t] = append(moves, move{digest: d, since: since})
		}
	}
	return true
}

func (c *modelClient) deleteTag(repo string) {
	n := c.IntN(len(repoLocks{}.tags))
	locks := c.locks[repo]
	locks.all.RLock()
	defer locks.all.RUnlock()
	locks.tags[n].Lock()
	defer locks.tags[n].Unlock()
	t := tagged{repo, tagName(n)}
	since := c.Now()
	err := c.DeleteTag(c.ctx, repo, t.tag)
	c.mu.Lock()
	moves := c.tags[t]
	there := len(moves) > 0 && moves[len(moves)-1].digest != ""
	if there {
		c.tags[t] = append(moves, move{since: since})
	}
	c.mu.Unlock()
	c.note("%s deletes %s:%s: %v", c.name, repo, t.tag, err)
	if there != (err == nil) || err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
		c.fail(nil, "delete tag %s:%s, which is there %t: %v", repo, t.tag, there, err)
	}
}

func (c *modelClient) deleteManifest(repo string) {
	locks := c.locks[repo]
	locks.all.Lock()
	defer locks.all.Unlock()
	k, m, ok := c.pick(repo, false)
	if !ok || c.isStable(content{repo, m.subject}) {
		return
	}
	c.countDelete(k)
	since := c.Now()
	err := c.DeleteManifest(c.ctx, repo, k.digest)
	c.countDelete(k)
	c.note("%s deletes %s %s: %v", c.name, repo, short(k.digest), err)
	switch {
	case err == nil:
		c.forget(k, since)
	case !errors.Is(err, registry.ErrManifestUnknown) && !errors.Is(err, registry.ErrReferenced):
		c.fail([]digest.Digest{k.digest}, "delete manifest: %v", err)
	}
}

// forget notes that a manifest was deleted.
func (w *world) forget(k content, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, moves := range w.tags {
		if t.repo != k.repo {
			continue
		}
		for i := range moves {
			moves[i].gone = moves[i].gone || moves[i].digest == k.digest
		}
		if n := len(moves); n > 0 && moves[n-1].digest == k.digest {
			w.tags[t] = append(moves, move{since: since})
		}
	}
	for _, n := range w.nodes {
		for i := range n.runs {
			if n.runs[i] == k {
				n.runs[i].digest = ""
			}
		}
	}
}

func (c *modelClient) deleteBlob(repo string) {
	k := content{repo, digest.FromString(c.layerText())}
	c.countDelete(k)
	err := c.DeleteBlob(c.ctx, repo, k.digest)
	c.countDelete(k)
	c.note("%s deletes blob %s %s: %v", c.name, repo, short(k.digest), err)
	if err != nil && !errors.Is(err, registry.ErrBlobUnknown) && !errors.Is(err, registry.ErrReferenced) {
		c.fail([]digest.Digest{k.digest}, "delete blob: %v", err)
	}
}

func (w *world) countDelete(k content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deletes[k]++
}

// ask reads what may be there or not: it is whole, or unknown.
func (c *modelClient) ask(repo string) {
	d := digest.FromString(c.layerText())
	f, _, err := c.Blob(c.ctx, repo, d)
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(f); err == nil && digest.FromBytes(data) != d {
			err = errors.New("damaged")
		}
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, registry.ErrBlobUnknown) {
		c.fail([]digest.Digest{d}, "read blob %s of %s: %v", short(d), repo, err)
	}
	if k, _, ok := c.pick(repo, true); ok {
		if _, _, err := c.Manifest(c.ctx, repo, registry.Reference{Digest: k.digest}); err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
			c.fail([]digest.Digest{k.digest}, "read manifest %s of %s: %v", short(k.digest), repo, err)
		}
	}
}

// report says what the client's node runs, or that it is no more.
func (c *modelClient) report(repo string) {
	locks := c.locks[repo]
	locks.all.RLock() // what is deleted is so before or after it
	defer locks.all.RUnlock()
	if c.IntN(6) == 0 {
		c.mu.Lock()
		delete(c.nodes, c.name)
		c.mu.Unlock()
		if err := c.RemoveNode(c.ctx, c.name); err != nil && !errors.Is(err, registry.ErrNodeUnknown) && !errors.Is(err, registry.ErrNodeNewer) {
			c.fail(nil, "remove node: %v", err)
		}
		return
	}
	r := registry.Report{Node: c.name, By: "runner", TTL: time.Duration(1+c.IntN(72*60)) * time.Minute}
	for range 3 {
		if k, _, ok := c.pick(repo, true); ok && !slices.Contains(r.Running, registry.Running{Repo: repo, Digest: k.digest}) {
			r.Running = append(r.Running, registry.Running{Repo: repo, Digest: k.digest})
		}
	}
	c.mu.Lock()
	delete(c.nodes, c.name)
	c.mu.Unlock()
	until, unknown, err := c.ReportRunning(c.ctx, r)
	c.note("%s runs %v until %v, unknown %v: %v", c.name, r.Running, until.Sub(time.Unix(1e9, 0)), unknown, err)
	if errors.Is(err, registry.ErrNodeNewer) && !c.Now().Before(until) {
		return // it ended while it was written
	}
	if err != nil {
		c.fail(nil, "report: %v", err)
	}
	n := modelNode{until: until}
	for _, running := range r.Running {
		if !slices.Contains(unknown, running) {
			n.runs = append(n.runs, content{running.Repo, running.Digest})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[c.name] = n
}

// stable pushes an index that stays, with an image, and what refers to it.
func (c *modelClient) stable(repo string) {
	m := modelManifest{index: true, stable: true}
	image, ok := c.image(repo, nil, "")
	if !ok {
		return
	}
	desc, k, ok := c.statManifest(content{repo, image})
	if !ok {
		return
	}
	m.refs = []digest.Digest{image}
	c.images++
	m.data = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}],"annotations":{"by":"%s %d"}}`,
		desc.MediaType, image, desc.Size, c.name, c.images)
	index, ok := c.push(repo, &m, nil, []*told{k})
	if !ok {
		return
	}
	c.image(repo, nil, index) // a signature, which stays with it
}

// isStable says whether a manifest stays.
func (w *world) isStable(k content) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.manifests[k]
	return m != nil && m.stable
}
