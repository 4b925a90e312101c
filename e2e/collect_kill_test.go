package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
)

const (
	sweptRounds  = 12
	sweptClients = 6
	// eager has a server collect all the time, but keep what clients were told of.
	eager      = "gc: {grace: 20ms, lease: 5s, history: 0s, interval: 50ms}\n"
	eagerLease = 5 * time.Second
)

// TestCollectKilled kills a server at random that collects all the time, by itself and
// by command, while clients push, mount, sign, and move and delete tags: what tags name
// is there, with all that it needs and all that refers to it, and in the end nothing
// else is.
func TestCollectKilled(t *testing.T) {
	t.Parallel()
	t.Logf("seed %d: repeat with -seed", *seed)
	s := berthtest.Start(t, berthtest.Options{Config: eager, Env: []string{"BERTH_LOG_ACCESS=false"}})
	m := &tagModel{tags: map[pushedTag][]digest.Digest{}, signed: map[digest.Digest][]digest.Digest{}}
	r := rand.New(rand.NewPCG(*seed, 0))
	deadline := time.Now().Add(*soak)
	rounds := 0
	for ; rounds < sweptRounds || time.Now().Before(deadline); rounds++ {
		m.work(t, s, r, rounds)
		if m.check(t, newWire(s.URL)); t.Failed() {
			t.Fatalf("in round %d", rounds)
		}
	}
	s.Stop()
	s.Configure(atOnce)
	s.Restart()
	reached := m.check(t, newWire(s.URL))
	leased := time.Now().Add(eagerLease) // rows hold leases of the time before
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		said := s.Berth("gc").Run()
		if left := len(blobFiles(t, s)) - len(reached); time.Now().After(leased) && left <= rounds*sweptClients && strings.TrimSpace(said) == "removed nothing" {
			t.Logf("%d rounds; %d blobs are reached, %d are left of pushes that nobody was told of", rounds, len(reached), left)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d blobs are reached, and there are %d: %s", len(reached), len(blobFiles(t, s)), said)
		}
	}
	m.check(t, newWire(s.URL))
	s.Stop()
	sameRows(t, s.Data, reached)
	s.Restart()
}

// sameRows is sameRowsOf for the metadata in a directory.
func sameRows(t *testing.T, dir string, reached map[digest.Digest]bool) {
	t.Helper()
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = meta.Close() }()
	sameRowsOf(t, meta, reached)
}

// sameRowsOf checks that the metadata knows just the bytes that are reached, and has
// nothing to look at.
func sameRowsOf(t *testing.T, meta storage.Meta, reached map[digest.Digest]bool) {
	t.Helper()
	err := meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Reviews.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			t.Errorf("a review of %s is left", e.Value.Digest)
		}
		n := 0
		for e, err := range storage.Stored.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			d, _, err := storage.CutDigest(e.Key)
			if err != nil {
				return err
			}
			if n++; !reached[d] || e.Value.Deleting {
				t.Errorf("%s is stored, and no tag reaches it; deleting: %t", d, e.Value.Deleting)
			}
		}
		if n != len(reached) {
			t.Errorf("%d blobs are stored by the metadata, and %d reached", n, len(reached))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// tagModel is where tags may point, and what was signed. A tag is moved by one client.
type tagModel struct {
	mu     sync.Mutex
	tags   map[pushedTag][]digest.Digest // "" is nowhere
	signed map[digest.Digest][]digest.Digest
}

// begin notes that a tag is being moved.
func (m *tagModel) begin(t pushedTag, d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tags[t] == nil {
		m.tags[t] = []digest.Digest{""}
	}
	m.tags[t] = append(m.tags[t], d)
}

// end notes that it was.
func (m *tagModel) end(t pushedTag, d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tags[t] = []digest.Digest{d}
}

func (m *tagModel) at(t pushedTag) digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.tags[t]) == 1 {
		return m.tags[t][0]
	}
	return ""
}

// work lets clients and collections work until the server is killed under them.
func (m *tagModel) work(t *testing.T, s *berthtest.Server, r *rand.Rand, round int) {
	t.Helper()
	var killing atomic.Bool
	var working sync.WaitGroup
	for i := range sweptClients {
		c := &sweptClient{
			name: fmt.Sprint("c", i), round: round, wire: newWire(s.URL), model: m,
			rand: rand.New(rand.NewPCG(*seed, uint64(1+round*sweptClients+i))),
		}
		working.Go(func() {
			for {
				if err := c.step(); err != nil {
					if a, answered := err.(*unexpected); answered || !killing.Load() { //nolint:errorlint // it is as made
						t.Errorf("round %d, client %d: %v %v", round, i, err, a)
					}
					return
				}
			}
		})
	}
	working.Go(func() {
		for !killing.Load() {
			if _, stderr, err := s.Berth("gc").Try(); err != nil && !killing.Load() {
				t.Errorf("round %d: gc: %v: %s", round, err, stderr)
			}
		}
	})
	time.Sleep(time.Duration(50+r.IntN(700)) * time.Millisecond)
	killing.Store(true)
	s.Kill()
	working.Wait()
	s.Restart()
}

// check reads all that tags lead to, and settles where they are. It returns what it
// has read.
func (m *tagModel) check(t *testing.T, w *wire) (reached map[digest.Digest]bool) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	reached = map[digest.Digest]bool{}
	for tag, may := range m.tags {
		a, err := w.pullManifest(tag.repo, tag.tag)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.Digest("")
		if a.status != http.StatusNotFound {
			d = digest.FromBytes(a.body)
		}
		if a.status != http.StatusOK && d != "" || !slices.Contains(may, d) {
			t.Errorf("%v is %s: %d, want one of %q", tag, d, a.status, may)
			continue
		}
		if m.tags[tag] = []digest.Digest{d}; d != "" {
			m.follow(t, w, tag.repo, d, reached)
		}
	}
	return reached
}

// follow reads what a manifest needs, and what refers to it.
func (m *tagModel) follow(t *testing.T, w *wire, repo string, d digest.Digest, reached map[digest.Digest]bool) {
	t.Helper()
	a, err := w.pullManifest(repo, d.String())
	if err != nil || a.status != http.StatusOK || digest.FromBytes(a.body) != d {
		t.Errorf("manifest %s of %s: %d, %v", d, repo, a.status, err)
		return
	}
	reached[d] = true
	row := parseModelManifest(a.body)
	for _, child := range row.manifests {
		m.follow(t, w, repo, child, reached)
	}
	for _, blob := range row.blobs {
		if a, err := w.pullBlob(repo, blob); err != nil || a.status != http.StatusOK || digest.FromBytes(a.body) != blob {
			t.Errorf("blob %s of %s, for %s: %d, %v", blob, repo, d, a.status, err)
		}
		reached[blob] = true
	}
	referrers, err := w.referrers(repo, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range m.signed[d] {
		if !slices.ContainsFunc(referrers, func(r ocispec.Descriptor) bool { return r.Digest == by }) {
			t.Errorf("signature %s of %s is gone", by, d)
		}
	}
	for _, by := range referrers {
		m.follow(t, w, repo, by.Digest, reached)
	}
}

// sweptClient is a client of a server that collects.
type sweptClient struct {
	name   string
	round  int
	images int
	wire   *wire
	model  *tagModel
	rand   *rand.Rand
}

var sweptRepos = []string{"swept/a", "swept/b"}

func (c *sweptClient) step() error {
	repo := sweptRepos[c.rand.IntN(len(sweptRepos))]
	tag := pushedTag{repo, fmt.Sprintf("%s-%d", c.name, c.rand.IntN(3))}
	switch n := c.rand.IntN(20); {
	case n < 11:
		return c.image(tag, nil)
	case n < 14:
		return c.index(tag)
	case n < 16:
		return c.sign(tag)
	case n < 18:
		return c.untag(tag, tag.tag)
	default:
		if d := c.model.at(tag); d != "" {
			return c.untag(tag, d.String())
		}
		return nil
	}
}

// image pushes an image of layers that others have, too, by tag; or a signature.
func (c *sweptClient) image(tag pushedTag, subject *ocispec.Descriptor) error {
	c.images++
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","id":"%s-%d-%d"}`, c.name, c.round, c.images)
	if _, err := c.wire.must(http.StatusCreated, "POST", "/v2/"+tag.repo+"/blobs/uploads/?digest="+digest.FromBytes(config).String(), bytes.NewReader(config)); err != nil {
		return err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: descriptorOf(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{},
	}
	for range 1 + c.rand.IntN(3) {
		layer := randomBytes(uint64(c.rand.IntN(25)), 100+c.rand.IntN(2)*20_000)
		if err := c.layer(tag.repo, layer); err != nil {
			return err
		}
		m.Layers = append(m.Layers, descriptorOf(ocispec.MediaTypeImageLayer, layer))
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if subject != nil {
		_, err = c.wire.must(http.StatusCreated, "PUT", "/v2/"+tag.repo+"/manifests/"+digest.FromBytes(data).String(), bytes.NewReader(data), "Content-Type", m.MediaType)
		if err == nil {
			c.model.mu.Lock()
			c.model.signed[subject.Digest] = append(c.model.signed[subject.Digest], digest.FromBytes(data))
			c.model.mu.Unlock()
		}
		return err
	}
	return c.put(tag, data)
}

func (c *sweptClient) put(tag pushedTag, data []byte) error {
	d := digest.FromBytes(data)
	c.model.begin(tag, d)
	_, err := c.wire.must(http.StatusCreated, "PUT", "/v2/"+tag.repo+"/manifests/"+tag.tag, bytes.NewReader(data), "Content-Type", mediaTypeOf(data))
	if err == nil {
		c.model.end(tag, d)
	}
	return err
}

// layer makes sure that a layer is there: it is, it is mounted, or pushed.
func (c *sweptClient) layer(repo string, data []byte) error {
	d := digest.FromBytes(data)
	switch c.rand.IntN(3) {
	case 0:
		a, err := c.wire.do("HEAD", "/v2/"+repo+"/blobs/"+d.String(), nil)
		if err != nil || a.status == http.StatusOK {
			return err
		}
	case 1:
		path := "/v2/" + repo + "/blobs/uploads/?mount=" + d.String() + "&from=" + sweptRepos[c.rand.IntN(2)]
		a, err := c.wire.do("POST", path, nil)
		if err != nil || a.status == http.StatusCreated {
			return err
		}
		if a.status != http.StatusAccepted {
			return &unexpected{"POST", path, a, http.StatusAccepted}
		}
		return c.wire.commitUpload(a.header.Get("Location"), data, 0)
	}
	location, err := c.wire.startUpload(repo)
	if err == nil {
		location, err = c.wire.writeUpload(location, data, 0, 50)
	}
	if err == nil {
		err = c.wire.commitUpload(location, data, 50)
	}
	return err
}

// index moves a tag from an image to an index of it.
func (c *sweptClient) index(tag pushedTag) error {
	d := c.model.at(tag)
	if d == "" {
		return nil
	}
	a, err := c.wire.must(http.StatusOK, "GET", "/v2/"+tag.repo+"/manifests/"+d.String(), nil)
	if err != nil {
		return err
	}
	c.images++
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests:   []ocispec.Descriptor{descriptorOf(mediaTypeOf(a.body), a.body)},
		Annotations: map[string]string{"id": fmt.Sprintf("%s-%d-%d", c.name, c.round, c.images)},
	})
	if err != nil {
		return err
	}
	return c.put(tag, data)
}

// sign pushes something that refers to what a tag names.
func (c *sweptClient) sign(tag pushedTag) error {
	d := c.model.at(tag)
	if d == "" {
		return nil
	}
	return c.image(tag, &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1})
}

// untag deletes a tag, or the manifest that it names.
func (c *sweptClient) untag(tag pushedTag, ref string) error {
	there := c.model.at(tag) != ""
	c.model.begin(tag, "")
	status := http.StatusNotFound
	if there {
		status = http.StatusAccepted
	}
	_, err := c.wire.must(status, "DELETE", "/v2/"+tag.repo+"/manifests/"+ref, nil)
	if err == nil {
		c.model.end(tag, "")
	}
	return err
}
