package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// model is what a registry may hold: what was acknowledged it must hold, what
// was under way when it died it may hold or not, but nothing else and nothing by
// halves.
type model struct {
	mu       sync.Mutex
	repos    map[string]*modelRepo
	sessions []*session
}

type modelRepo struct {
	blobs     map[digest.Digest]presence
	manifests map[digest.Digest]*modelManifest
	tags      map[string][]digest.Digest // where a tag may point; "" is nowhere
}

// presence says whether something may be there, or may not, and whether it was
// found to be as it may since then.
type presence uint8

const (
	absent presence = 1 << iota
	present
	verified
)

// modelManifest is a manifest and what it references.
type modelManifest struct {
	presence
	blobs, manifests []digest.Digest
	subject          digest.Digest
}

// session is an upload that a client left open.
type session struct {
	repo, location string
	data           []byte
	acked, sent    int // bytes
}

func newModel() *model { return &model{repos: map[string]*modelRepo{}} }

// change runs fn on a repository.
func (m *model) change(repo string, fn func(*modelRepo)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repos[repo]
	if r == nil {
		r = &modelRepo{map[digest.Digest]presence{}, map[digest.Digest]*modelManifest{}, map[string][]digest.Digest{}}
		m.repos[repo] = r
	}
	fn(r)
}

func (m *model) addSession(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions = append(m.sessions, s)
}

func (m *model) takeSessions() []*session {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions
	m.sessions = nil
	return s
}

// blob notes that a blob is being pushed or, with acked, that it was.
func (m *model) blob(repo string, d digest.Digest, acked bool) {
	m.change(repo, func(r *modelRepo) {
		switch {
		case acked:
			r.blobs[d] = present
		case r.blobs[d]&present == 0:
			r.blobs[d] = absent | present
		}
	})
}

// manifest notes that a manifest and its tags are being pushed, or were.
func (m *model) manifest(repo string, data []byte, tags []string, acked bool) {
	d := digest.FromBytes(data)
	m.change(repo, func(r *modelRepo) {
		row := r.manifests[d]
		if row == nil {
			row = parseModelManifest(data)
			r.manifests[d] = row
		}
		if acked {
			row.presence = present
		}
		for _, tag := range tags {
			if acked {
				r.tags[tag] = []digest.Digest{d}
			} else {
				r.tags[tag] = append(r.candidates(tag), d)
			}
		}
	})
}

// candidates is where a tag may point.
func (r *modelRepo) candidates(tag string) []digest.Digest {
	if c := r.tags[tag]; c != nil {
		return c
	}
	return []digest.Digest{""}
}

func parseModelManifest(data []byte) *modelManifest {
	var v struct {
		ocispec.Index
		Config  *ocispec.Descriptor
		Layers  []ocispec.Descriptor
		Subject *ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &v); err != nil {
		panic(err) // the test has made it
	}
	row := &modelManifest{presence: absent | present}
	if v.Config != nil {
		row.blobs = append(row.blobs, v.Config.Digest)
	}
	for _, l := range v.Layers {
		row.blobs = append(row.blobs, l.Digest)
	}
	for _, c := range v.Manifests {
		row.manifests = append(row.manifests, c.Digest)
	}
	if v.Subject != nil {
		row.subject = v.Subject.Digest
	}
	return row
}

// untag notes that a tag is being deleted, or was.
func (m *model) untag(repo, tag string, acked bool) {
	m.change(repo, func(r *modelRepo) {
		if acked {
			r.tags[tag] = []digest.Digest{""}
		} else {
			r.tags[tag] = append(r.candidates(tag), "")
		}
	})
}

// drop notes that a manifest is being deleted, with its tags, or was.
func (m *model) drop(repo string, d digest.Digest, acked bool) {
	m.change(repo, func(r *modelRepo) {
		r.manifests[d].presence = absent | present
		if acked {
			r.manifests[d].presence = absent
		}
		for tag, c := range r.tags {
			switch {
			case !slices.Contains(c, d):
			case acked:
				r.tags[tag] = []digest.Digest{""}
			default:
				r.tags[tag] = append(c, "")
			}
		}
	})
}

// size is how many blobs and manifests there are.
func (m *model) size() (blobs, manifests int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.repos {
		for _, p := range r.blobs {
			blobs += int(p&present) / int(present)
		}
		for _, row := range r.manifests {
			manifests += int(row.presence&present) / int(present)
		}
	}
	return blobs, manifests
}

// check compares the registry with the model and returns what is wrong; without
// all, it does not read again what it has verified. What may have been and what
// may not have been is settled by it: the model becomes what the registry holds.
func (m *model) check(w *wire, all bool) []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var wrong []error
	var named []string // repositories that have a manifest
	for _, name := range slices.Sorted(maps.Keys(m.repos)) {
		c := checker{w, name, m.repos[name], all, nil}
		c.blobs()
		if c.manifests() {
			named = append(named, name)
			c.tags()
		}
		wrong = append(wrong, c.wrong...)
	}
	got, err := w.catalog()
	if err != nil {
		return append(wrong, err)
	}
	if !slices.Equal(got, named) {
		wrong = append(wrong, fmt.Errorf("catalog is %q: want %q", got, named))
	}
	return wrong
}

// checker checks a repository.
type checker struct {
	w     *wire
	name  string
	repo  *modelRepo
	all   bool
	wrong []error
}

func (c *checker) complain(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Errorf(c.name+": "+format, args...))
}

// observe says whether content is there, which may allow or not, and that it is
// whole.
func (c *checker) observe(what string, d digest.Digest, may presence, a answer, err error) presence {
	switch {
	case err != nil:
		c.complain("%s %s: %w", what, d, err)
	case a.status == http.StatusOK && digest.FromBytes(a.body) != d:
		c.complain("%s %s comes back damaged: %d bytes of %s", what, d, len(a.body), digest.FromBytes(a.body))
	case a.status == http.StatusOK && may&present == 0:
		c.complain("%s %s was deleted, and is there", what, d)
	case a.status == http.StatusOK:
		return present | verified
	case a.status != http.StatusNotFound:
		c.complain("%s %s: %s", what, d, a)
	case may&absent == 0:
		c.complain("%s %s was acknowledged, and is gone", what, d)
	default:
		return absent | verified
	}
	return may
}

func (c *checker) blobs() {
	for d, may := range c.repo.blobs {
		if may&verified != 0 && !c.all {
			continue
		}
		a, err := c.w.pullBlob(c.name, d)
		c.repo.blobs[d] = c.observe("blob", d, may, a, err)
	}
}

// manifests also says whether there are any.
func (c *checker) manifests() (found bool) {
	for d, row := range c.repo.manifests {
		if row.presence&verified != 0 && !c.all {
			continue
		}
		a, err := c.w.pullManifest(c.name, d.String())
		row.presence = c.observe("manifest", d, row.presence, a, err)
	}
	for d, row := range c.repo.manifests {
		if row.presence&present == 0 {
			continue
		}
		found = true
		for _, blob := range row.blobs {
			if c.repo.blobs[blob]&present == 0 {
				c.complain("manifest %s is there, and its blob %s is not", d, blob)
			}
		}
		for _, child := range row.manifests {
			if r := c.repo.manifests[child]; r == nil || r.presence&present == 0 {
				c.complain("index %s is there, and its manifest %s is not", d, child)
			}
		}
		c.referrer(d, row.subject)
	}
	return found
}

// referrer checks that a manifest is listed with its subject.
func (c *checker) referrer(d, subject digest.Digest) {
	if subject == "" {
		return
	}
	list, err := c.w.referrers(c.name, subject)
	if err != nil {
		c.complain("referrers of %s: %w", subject, err)
	} else if !slices.ContainsFunc(list, func(r ocispec.Descriptor) bool { return r.Digest == d }) {
		c.complain("manifest %s is not among the referrers of its subject %s", d, subject)
	}
}

func (c *checker) tags() {
	listed, err := c.w.tags(c.name)
	if err != nil {
		c.complain("list tags: %w", err)
	}
	if !slices.IsSorted(listed) {
		c.complain("tags are not sorted")
	}
	for _, tag := range listed {
		if c.repo.tags[tag] == nil {
			c.complain("tag %s is there, and nobody has pushed it", tag)
		}
	}
	for tag, may := range c.repo.tags {
		a, err := c.w.do("HEAD", "/v2/"+c.name+"/manifests/"+tag, nil)
		if err != nil {
			c.complain("tag %s: %w", tag, err)
			continue
		}
		d := digest.Digest(a.header.Get("Docker-Content-Digest"))
		if !slices.Contains(may, d) {
			c.complain("tag %s is %q (%d): want one of %q", tag, d, a.status, may)
		}
		if has := slices.Contains(listed, tag); has != (d != "") {
			c.complain("tag %s is %q, and the list of tags has it: %t", tag, d, has)
		}
		if r := c.repo.manifests[d]; d != "" && (r == nil || r.presence&present == 0) {
			c.complain("tag %s points to %s, which is not there", tag, d)
		}
		c.repo.tags[tag] = []digest.Digest{d}
	}
}
