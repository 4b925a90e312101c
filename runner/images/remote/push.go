package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/runner"
)

const (
	parallelUploads = 5
	maxMounts       = 3 // repositories that are tried
	progressEvery   = 100 * time.Millisecond
)

// Source opens what is pushed.
type Source interface {
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadSeekCloser, error)
}

// PushContent is a manifest with all that it references.
type PushContent struct {
	Manifest ocispec.Descriptor
	// Blobs are its configuration and layers, from the lowest up.
	Blobs []ocispec.Descriptor
	// Children are the manifests of an index that are to be pushed.
	Children []PushContent
	// MountFrom are repositories of the same registry, without its host, that are
	// said to have a blob.
	MountFrom map[digest.Digest][]string
	// DiffIDs are those of the layers, by the layers' digests: progress shows them
	// as Docker does. Layers that are not among them are shown by their digest.
	DiffIDs map[digest.Digest]digest.Digest
}

// pushResult is what the docker command gets in the last message of a push.
type pushResult struct {
	Tag    string
	Digest string
	Size   int
}

// Push sends what the registry has not of the content and then has tag name it;
// an empty tag leaves it without a name. It returns the manifest's descriptor.
// Nothing is tagged unless all is there.
func (r *Repo) Push(ctx context.Context, tag string, content PushContent, src Source, p runner.Progress) (ocispec.Descriptor, error) {
	if r.err != nil {
		return ocispec.Descriptor{}, r.err
	}
	if tag != "" {
		if _, err := reference.WithTag(reference.TrimNamed(r.name), tag); err != nil {
			return ocispec.Descriptor{}, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	}
	ps := &pusher{s: r.upstream(), src: src, progress: p, content: content}
	ps.path = ps.s.prefix + r.path
	r.announced.Do(func() {
		ps.say("", fmt.Sprintf("The push refers to repository [%s]", reference.FamiliarName(r.name)))
	})
	if err := ps.push(ctx, tag); err != nil {
		if errors.Is(err, errNoBasic) {
			err = errNoBasic // Docker names the request only when it pulls
		}
		return ocispec.Descriptor{}, classify(err)
	}
	m := content.Manifest
	if tag == "" {
		return m, nil
	}
	ps.say("", fmt.Sprintf("%s: digest: %s size: %d", tag, m.Digest, m.Size))
	if aux, err := json.Marshal(pushResult{tag, m.Digest.String(), int(m.Size)}); err == nil {
		ps.send(jsonstream.Message{Aux: (*json.RawMessage)(&aux)})
	}
	return m, nil
}

// pusher is one push.
type pusher struct {
	s       *session
	path    string // of the repository
	src     Source
	content PushContent

	mu       sync.Mutex // orders the messages
	progress runner.Progress
}

func (ps *pusher) send(m jsonstream.Message) {
	if ps.progress == nil {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.progress(m)
}

func (ps *pusher) say(id, status string) {
	if id != "" {
		// The command draws a line of its own only for messages with details.
		ps.send(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
		return
	}
	ps.send(jsonstream.Message{Status: status})
}

func (ps *pusher) push(ctx context.Context, tag string) error {
	// What the server speaks, before five ask at once; and if there is one.
	if _, err := ps.s.base(ctx); err != nil {
		return err
	}
	jobs := ps.plan()
	for i, j := range jobs {
		j.say("Preparing")
		if i >= parallelUploads {
			j.say("Waiting")
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelUploads)
	for _, j := range jobs {
		g.Go(func() error { return j.run(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ps.manifests(ctx, ps.content, tag)
}

// plan lists each blob once, the topmost layers first as Docker does.
func (ps *pusher) plan() []*job {
	var jobs []*job
	seen := map[digest.Digest]bool{}
	var walk func(c PushContent)
	walk = func(c PushContent) {
		for _, desc := range slices.Backward(c.Blobs) {
			if seen[desc.Digest] {
				continue
			}
			seen[desc.Digest] = true
			j := &job{ps: ps, desc: desc}
			for _, m := range []PushContent{c, ps.content} {
				if j.from == nil {
					j.from = m.MountFrom[desc.Digest]
				}
				if d, ok := m.DiffIDs[desc.Digest]; ok {
					j.id = short(d)
				}
			}
			if j.id == "" && !isConfig(desc) {
				j.id = short(desc.Digest)
			}
			jobs = append(jobs, j)
		}
		for _, child := range c.Children {
			walk(child)
		}
	}
	walk(ps.content)
	return jobs
}

// isConfig says whether a blob is a configuration, of which progress says
// nothing.
func isConfig(desc ocispec.Descriptor) bool {
	switch desc.MediaType {
	case ocispec.MediaTypeImageConfig, ocispec.MediaTypeEmptyJSON, "application/vnd.docker.container.image.v1+json":
		return true
	}
	return false
}

func short(d digest.Digest) string {
	if e := d.Encoded(); len(e) > 12 {
		return e[:12]
	}
	return d.Encoded()
}

// manifests sends manifests from the leaves to the root, which gets the tag.
func (ps *pusher) manifests(ctx context.Context, c PushContent, tag string) error {
	for _, child := range c.Children {
		if err := ps.manifests(ctx, child, ""); err != nil {
			return err
		}
	}
	data, err := ps.read(ctx, c.Manifest)
	if err != nil {
		return err
	}
	target := tag
	if target == "" {
		target = c.Manifest.Digest.String()
	}
	resp, err := ps.s.retry(ctx, call{
		method: http.MethodPut, path: "v2/" + ps.path + "/manifests/" + target,
		header: http.Header{"Content-Type": {c.Manifest.MediaType}},
		scopes: pushes(ps.path), ok: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
		body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, size: int64(len(data)),
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != c.Manifest.Digest.String() {
		return fmt.Errorf("the registry has stored manifest %s as %s", c.Manifest.Digest, printable(got))
	}
	return nil
}

func (ps *pusher) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxManifest {
		return nil, runner.Errorf(runner.ErrInvalid, "manifest %s has %d bytes, more than the %d allowed", desc.Digest, desc.Size, maxManifest)
	}
	r, err := ps.src.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := readAll(r, maxManifest)
	if err == nil && int64(len(data)) != desc.Size {
		err = errShort
	}
	return data, err
}

func pushes(path string) []string {
	return []string{auth.ScopeRepository(path, auth.ActionPull, auth.ActionPush)}
}
