package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// accept names every kind of manifest, or a registry may convert or hide it.
var accept = []string{strings.Join([]string{
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json",
}, ", ")}

// Manifest returns a manifest. Its bytes were checked against the digest asked
// for, or for a tag against the digest that the registry gives, and it fails
// with ErrDigestInvalid if they are other bytes.
func (c *Client) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	resp, err := c.getManifest(ctx, http.MethodGet, repo, ref)
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	data, err := readAll(resp, registry.MaxManifest)
	if errors.Is(err, errTooLong) {
		return nil, registry.Descriptor{}, registry.ErrManifestTooLarge.With("manifest %s is larger than 4 MiB", ref)
	}
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	desc, err := describe(resp, ref)
	if err != nil {
		return nil, desc, err
	}
	if desc.Digest == "" {
		desc.Digest = digest.FromBytes(data)
	}
	desc.Size = int64(len(data))
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, desc, registry.ErrDigestInvalid.With("the registry sent %s for manifest %s", got, desc.Digest)
	}
	return data, desc, nil
}

// StatManifest describes a manifest.
func (c *Client) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	resp, err := c.getManifest(ctx, http.MethodHead, repo, ref)
	if err != nil {
		return registry.Descriptor{}, err
	}
	resp.Body.Close()
	desc, err := describe(resp, ref)
	if err == nil && (desc.Digest == "" || desc.Size < 0) { // the specification lets HEAD say neither
		_, desc, err = c.Manifest(ctx, repo, ref)
	}
	return desc, err
}

func (c *Client) getManifest(ctx context.Context, method, repo string, ref registry.Reference) (*http.Response, error) {
	return c.do(ctx, request{
		method: method, url: c.repoURL(repo, "manifests", ref.String()), scopes: pulls(repo),
		header: http.Header{"Accept": accept}, missing: registry.ErrManifestUnknown, want: []int{http.StatusOK},
	})
}

// describe reads the headers of a manifest. Size is -1 and Digest empty if they
// do not say.
func describe(resp *http.Response, ref registry.Reference) (registry.Descriptor, error) {
	desc := registry.Descriptor{Digest: ref.Digest, Size: resp.ContentLength}
	desc.MediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if h := resp.Header.Get("Docker-Content-Digest"); h != "" && ref.Digest == "" {
		d, err := registry.ParseDigest(h)
		if err != nil {
			return desc, err
		}
		desc.Digest = d
	}
	return desc, nil
}

// PushManifest stores a manifest, in one request if the registry knows how to
// tag while it stores, and otherwise with a further one for each tag.
func (c *Client) PushManifest(ctx context.Context, repo string, m registry.ManifestPush) (registry.ManifestPushed, error) {
	desc := registry.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Data))}
	if desc.MediaType == "" {
		desc.MediaType = mediaTypeOf(m.Data)
	}
	done := registry.ManifestPushed{Descriptor: desc}
	if got := m.Digest.Algorithm().FromBytes(m.Data); got != m.Digest {
		return done, registry.ErrDigestInvalid.With("the manifest is %s, not %s", got, m.Digest)
	}
	if len(m.Data) > registry.MaxManifest {
		return done, registry.ErrManifestTooLarge
	}
	tags := m.Tags
	// Every registry tags a sha256 manifest when it is pushed by tag.
	if len(tags) != 1 || m.Digest.Algorithm() != digest.SHA256 {
		u := c.repoURL(repo, "manifests", string(m.Digest))
		u.RawQuery = url.Values{"tag": tags}.Encode()
		answer, err := c.putManifest(ctx, repo, u, desc, m.Data)
		if err != nil {
			return done, err
		}
		done.Subject = subjectOf(answer)
		made := answer.Values("OCI-Tag")
		tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return slices.Contains(made, t) })
	}
	for _, tag := range tags {
		answer, err := c.putManifest(ctx, repo, c.repoURL(repo, "manifests", tag), desc, m.Data)
		if err != nil {
			return done, err
		}
		done.Subject = subjectOf(answer)
		if got := answer.Get("Docker-Content-Digest"); got != "" && got != string(m.Digest) {
			return done, fmt.Errorf("registry %s stored the manifest as %s, not %s", c.base.Host, printable(got), m.Digest)
		}
	}
	return done, nil
}

func (c *Client) putManifest(ctx context.Context, repo string, u *url.URL, desc registry.Descriptor, data []byte) (http.Header, error) {
	header := http.Header{}
	if desc.MediaType != "" {
		header.Set("Content-Type", desc.MediaType)
	}
	resp, err := c.do(ctx, request{
		method: http.MethodPut, url: u, scopes: pushes(repo), header: header,
		body: newBody(bytes.NewReader(data), registry.Chunk{}),
		want: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	})
	if err != nil {
		return nil, err
	}
	return resp.Header, drain(resp)
}

// mediaTypeOf is the type that a manifest says it is of, if it does.
func mediaTypeOf(data []byte) string {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	_ = json.Unmarshal(data, &m) // the registry is the judge of what is no manifest
	return m.MediaType
}

func subjectOf(answer http.Header) digest.Digest {
	d, err := registry.ParseDigest(answer.Get("OCI-Subject"))
	if err != nil {
		return "" // a registry before 1.1 says nothing
	}
	return d
}

// DeleteManifest removes a manifest and its tags.
func (c *Client) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return c.delete(ctx, repo, "manifests", string(d), registry.ErrManifestUnknown)
}

// DeleteTag removes a tag.
func (c *Client) DeleteTag(ctx context.Context, repo, tag string) error {
	return c.delete(ctx, repo, "manifests", tag, registry.ErrManifestUnknown)
}
