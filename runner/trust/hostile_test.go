package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// TestHostile tries what registries may send to keep a host busy, or to fool it.
func TestHostile(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	const repository = "r.example.com/app"
	d := digest.FromString("image")
	rule := Rule{Images: []string{"**"}, Issuer: issuer, Subjects: []string{signer}, Root: a.root("log")}
	good := a.bundle(signer, issuer, statement(d, signPredicate), "log")
	const bundled = bundleType + ".v0.3+json"
	for what, tt := range map[string]struct {
		fill func(*shelf)
		says string
		most int // that may be asked of the registry
	}{
		"a good one among bad ones": {func(s *shelf) {
			s.refer([]byte("{}"))
			s.refer([]byte("not JSON"))
			s.refer(bytes.Replace(good, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1))
			s.refer(good)
		}, "", 20},
		"bad ones": {func(s *shelf) {
			s.refer([]byte("{}"))
			s.refer([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":null}`))
		}, "of 2 signatures that were found", 20},
		"too many referrers": {func(s *shelf) {
			for i := range 2000 {
				s.refer(fmt.Appendf(nil, `{"mediaType":"%d"}`, i))
			}
		}, "too many", maxDocuments + 10},
		"too many layers": {func(s *shelf) {
			var layers []ocispec.Descriptor
			for i := range 3000 {
				layers = append(layers, s.put(layerType, fmt.Appendf(nil, "%d", i)))
			}
			s.tags["sha256-"+d.Encoded()+".sig"] = s.manifest(layers...)
		}, "too many", maxDocuments + 10},
		"too large": {func(s *shelf) {
			s.refer(make([]byte, maxDocument+1))
		}, "bytes; at most", 10},
		"too large together": {func(s *shelf) {
			for i := range 100 {
				s.refer(append(bytes.Repeat([]byte(" "), maxDocument-10), fmt.Sprint(i)...))
			}
		}, "too many, or they are too large", 100},
		"other bytes than the digest says": {func(s *shelf) {
			s.refer(good)
			s.docs[s.referrers[0].Digest] = []byte("other")
		}, "is not sha256:", 10},
		"a digest that is none": {func(s *shelf) {
			s.referrers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundled, Digest: "sha256:../../x", Size: 3}}
		}, "invalid", 10},
		"a list that contains itself": {func(s *shelf) {
			s.refer(good)
			s.referrers[0].MediaType = ocispec.MediaTypeImageIndex
		}, "has none", 10},
		"a manifest of itself": {func(s *shelf) {
			m := s.manifest()
			s.referrers = []ocispec.Descriptor{m}
			s.referrers[0].ArtifactType = bundled
			s.docs[m.Digest] = []byte("[]")
		}, "is not sha256:", 10},
		"other statements, that say so": {func(s *shelf) {
			s.refer(good)
			s.referrers[0].Annotations = map[string]string{predicateAnnotation: "https://cyclonedx.org/bom"}
		}, "has none", 10},
		"an error for everything": {func(s *shelf) { s.err = errors.New("teapot") }, "cannot be fetched: teapot", 10},
		"a negative size": {func(s *shelf) {
			s.refer(good)
			s.referrers[0].Size = -1 << 40
		}, "bytes", 10},
	} {
		s := newShelf(t)
		tt.fill(s)
		_, err := policy(t, rule).Decide(t.Context(), imageOf(repository, d), s.sources())
		checkSays(t, what, err, tt.says)
		if s.asked > tt.most {
			t.Errorf("%s: %d requests, which should be at most %d", what, s.asked, tt.most)
		}
	}
}

// TestNewestFirst finds the signature that was made last, whatever is before it.
func TestNewestFirst(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	d := digest.FromString("image")
	s := newShelf(t)
	for i := range 300 {
		s.refer(fmt.Appendf(nil, `{"mediaType":"%d"}`, i))
		s.referrers[i].Annotations = map[string]string{createdAnnotation: "2026-01-01T00:00:00Z"}
	}
	s.refer(a.bundle(signer, issuer, statement(d, signPredicate), "log"))
	s.referrers[300].Annotations = map[string]string{createdAnnotation: "2026-02-01T00:00:00Z", predicateAnnotation: signPredicate}
	rule := Rule{Images: []string{"**"}, Issuer: issuer, Subjects: []string{signer}, Root: a.root("log")}
	if _, err := policy(t, rule).Decide(t.Context(), imageOf("r.example.com/app", d), s.sources()); err != nil || s.asked > 5 {
		t.Errorf("%d requests, error %v", s.asked, err)
	}
}

// TestEvidenceInAMess tries files that are not what was written.
func TestEvidenceInAMess(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	d := digest.FromString("image")
	rule := Rule{Images: []string{"**"}, Issuer: issuer, Subjects: []string{signer}, Root: a.root("log")}
	s := newShelf(t)
	s.refer(a.bundle(signer, issuer, statement(d, signPredicate), "log"))
	dir := t.TempDir()
	img := imageOf("r.example.com/app", d)
	if _, err := policyIn(t, dir, rule).Decide(t.Context(), img, s.sources()); err != nil {
		t.Fatal(err)
	}
	p := policyIn(t, dir, rule)
	path := p.evidence.path(d)
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"half": written[:len(written)/2], "empty": nil, "null": []byte("null"), "of another": []byte(`[{"bundle":{}},{}]`),
		"forged": bytes.Replace(written, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1), "huge": bytes.Repeat([]byte("["), maxEvidence+10),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		away := newShelf(t)
		away.err = errors.New("away")
		if _, err := policyIn(t, dir, rule).Decide(t.Context(), img, away.sources()); !errors.Is(err, runner.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := policyIn(t, dir, rule).Decide(t.Context(), img, s.sources()); err != nil {
			t.Errorf("%s, with the registry: %v", what, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Contains(got, written[1:len(written)-1]) {
			t.Errorf("%s: it is not written anew: %s, %v", what, got, err)
		}
	}
}

// TestRemembered asks often, at once and after another: the registry is asked once.
func TestRemembered(t *testing.T) {
	a := newAuthority(t)
	d := digest.FromString("image")
	rule := Rule{Images: []string{"**"}, Issuer: issuer, Subjects: []string{signer}, Root: a.root("log")}
	s := newShelf(t)
	s.refer(a.bundle(signer, issuer, statement(d, signPredicate), "log"))
	p, img := policy(t, rule), imageOf("r.example.com/app", d)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := p.Decide(t.Context(), img, s.sources()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first := s.asked
	if allocs := testing.AllocsPerRun(100, func() { _, _ = p.Decide(t.Context(), img, s.sources()) }); allocs > 20 || s.asked != first || first > 10 {
		t.Errorf("%v allocations, %d requests of %d", allocs, s.asked, first)
	}
}

// slow is a registry that answers nothing.
type slow struct{ *shelf }

func (s slow) Referrers(ctx context.Context, _ digest.Digest, _ ...string) ([]ocispec.Descriptor, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s slow) Fetch(ctx context.Context, _ string, _ ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s slow) Resolve(ctx context.Context, _ string) (ocispec.Descriptor, error) {
	<-ctx.Done()
	return ocispec.Descriptor{}, ctx.Err()
}

// TestSlow asks a registry that does not answer: for as long as there is patience, as
// the one who asks has, or as the policy is open.
func TestSlow(t *testing.T) {
	t.Parallel()
	rule := Rule{Images: []string{"**"}, Keys: []string{newKey(t)}}
	img := imageOf("r.example.com/app", digest.FromString("image"))
	synctest.Test(t, func(t *testing.T) {
		sources := func(reference.Named) Source { return slow{newShelf(t)} }
		p, start := policy(t, rule), time.Now()
		_, err := p.Decide(t.Context(), img, sources)
		if took := time.Since(start); took != patience || !errors.Is(err, runner.ErrUnavailable) || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("after %s: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := p.Decide(ctx, img, sources); time.Since(start) != time.Second || !errors.Is(err, runner.ErrUnavailable) {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		time.AfterFunc(2*time.Second, p.Close)
		start = time.Now()
		if _, err := p.Decide(t.Context(), img, sources); time.Since(start) != 2*time.Second || err == nil {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if _, err := p.Decide(t.Context(), img, sources); !errors.Is(err, runner.ErrUnavailable) {
			t.Errorf("when it is closed: %v", err)
		}
	})
}
