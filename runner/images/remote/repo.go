package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/runner"
)

const (
	maxManifest = 4 << 20
	maxPage     = 32 << 20 // of a list of tags: some registries ignore n and send all
	maxPages    = 10000

	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeDockerSigned   = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

var manifestTypes = []string{ //nolint:gochecknoglobals // a constant
	ocispec.MediaTypeImageIndex, typeDockerList, ocispec.MediaTypeImageManifest, typeDockerManifest,
}

// Repo is a repository for the time of one operation. It is safe for concurrent
// use.
type Repo struct {
	c        *Client
	name     reference.Named
	path     string     // of the repository at its registry
	sessions []*session // the mirrors, then the registry
	err      error      // why there are none
	// found is the session that had the manifest: what belongs to it is fetched
	// from there first.
	found     atomic.Int32
	announced sync.Once
}

// Repository is the repository of a name; its tag or digest is what Resolve
// resolves if told nothing else. Errors of the configuration or of auth come
// from the Repo's methods.
func (c *Client) Repository(name reference.Named, login *registry.AuthConfig) *Repo {
	r := &Repo{c: c, name: name, path: reference.Path(name)}
	cred, err := credential(login)
	if err != nil {
		r.err = err
		return r
	}
	servers, err := c.servers(reference.Domain(name))
	if err != nil {
		r.err = fmt.Errorf("registry %s: %w", reference.Domain(name), err)
		return r
	}
	for _, s := range servers {
		r.sessions = append(r.sessions, c.session(s, cred))
	}
	return r
}

// upstream is the registry itself.
func (r *Repo) upstream() *session { return r.sessions[len(r.sessions)-1] }

// target makes out a reference: a tag, a digest, or a whole name of this
// repository.
func (r *Repo) target(ref string) (reference.Named, string, error) {
	if r.err != nil {
		return nil, "", r.err
	}
	named := r.name
	switch d, err := digest.Parse(ref); {
	case ref == "":
	case err == nil:
		named, err = reference.WithDigest(reference.TrimNamed(r.name), d)
		if err != nil {
			return nil, "", runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	case strings.ContainsAny(ref, "/:@"):
		if named, err = r.c.ParseName(ref); err != nil {
			return nil, "", err
		}
		if named.Name() != r.name.Name() {
			return nil, "", runner.Errorf(runner.ErrInvalid, "%s is not in the repository %s", ref, r.name.Name())
		}
	default:
		if named, err = reference.WithTag(reference.TrimNamed(r.name), ref); err != nil {
			return nil, "", runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	}
	if d, ok := named.(reference.Digested); ok {
		return named, d.Digest().String(), nil
	}
	named = reference.TagNameOnly(named)
	return named, named.(reference.Tagged).Tag(), nil
}

// Resolve describes the manifest that a tag, a digest or a whole name of this
// repository stands for; an empty ref is the name that the Repo was made with.
// Errors are runner.ErrNotFound, runner.ErrUnauthorized or runner.ErrForbidden
// where the registry says so.
func (r *Repo) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	named, target, err := r.target(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for i, s := range r.sessions {
		desc, err := s.resolve(ctx, r.path, target)
		if err == nil {
			r.found.Store(int32(i))
			return desc, nil
		}
		if !s.mirror || ctx.Err() != nil {
			return ocispec.Descriptor{}, pullError(named, err)
		}
		r.c.log.WarnContext(ctx, "a mirror fails", "mirror", s.host, "image", named.String(), "error", err)
	}
	return ocispec.Descriptor{}, errors.New("no registry") // not reached: the last is no mirror
}

func pulls(path string) []string { return []string{auth.ScopeRepository(path, auth.ActionPull)} }

// manifest is a request for a manifest by tag or digest.
func (s *session) manifest(method, path, target string) call {
	path = s.prefix + path
	return call{
		method: method, path: "v2/" + path + "/manifests/" + target, scopes: pulls(path),
		header: http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}, ok: []int{http.StatusOK},
	}
}

func (s *session) resolve(ctx context.Context, path, target string) (ocispec.Descriptor, error) {
	// Docker Hub does not count a HEAD. Where it does not tell all, a GET does:
	// also what the registry has to say about an error.
	resp, err := s.retry(ctx, s.manifest(http.MethodHead, path, target))
	var rerr *responseError
	switch {
	case err == nil:
		resp.Body.Close()
		if desc, ok, err := described(resp, target); ok || err != nil {
			return desc, err
		}
	case !errors.As(err, &rerr) || rerr.status == http.StatusTooManyRequests:
		return ocispec.Descriptor{}, err
	}
	resp, err = s.retry(ctx, s.manifest(http.MethodGet, path, target))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, maxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	if want, err := digest.Parse(target); err == nil {
		if d = want.Algorithm().FromBytes(data); d != want {
			return ocispec.Descriptor{}, fmt.Errorf("manifest verification failed for digest %s", want)
		}
	}
	mediaType, err := mediaTypeOf(resp)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, err
}

// described is the manifest that a response to HEAD describes, if it does.
func described(resp *http.Response, target string) (ocispec.Descriptor, bool, error) {
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if !isDigest(d.String()) || resp.ContentLength < 0 {
		return ocispec.Descriptor{}, false, nil
	}
	if isDigest(target) && target != d.String() {
		return ocispec.Descriptor{}, false, fmt.Errorf("the registry has %s for digest %s", d, target)
	}
	if resp.ContentLength > maxManifest {
		return ocispec.Descriptor{}, false, errTooLarge(maxManifest)
	}
	mediaType, err := mediaTypeOf(resp)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: resp.ContentLength}, err == nil, err
}

func isDigest(s string) bool {
	_, err := digest.Parse(s)
	return err == nil
}

func mediaTypeOf(resp *http.Response) (string, error) {
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return "", fmt.Errorf("the registry does not say what kind of manifest it has: Content-Type %q", printable(resp.Header.Get("Content-Type")))
	case mediaType == typeDockerSchema1 || mediaType == typeDockerSigned:
		return "", runner.Errorf(runner.ErrNotImplemented, "images of Docker manifest version 2, schema 1 are not supported")
	}
	return mediaType, nil
}

func errTooLarge(limit int64) error {
	return fmt.Errorf("the registry sends more than the %d bytes allowed here", limit)
}

// readAll reads what must not be longer than limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLarge(limit)
	}
	return data, err
}
