package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// maxSessions is how many sessions a Client remembers the URL of. Beyond it,
// one that nobody came back for is forgotten.
const maxSessions = 4096

// PushBlob stores the bytes of r as the blob d. Where r can say its length, by
// Len or Seek, they go in one request after the one that starts the upload;
// otherwise they are streamed in a third.
func (c *Client) PushBlob(ctx context.Context, repo string, d digest.Digest, r io.Reader) (registry.Descriptor, error) {
	id, err := c.StartUpload(ctx, repo, d.Algorithm())
	if err != nil {
		return registry.Descriptor{}, err
	}
	desc, err := c.pushBlob(ctx, repo, id, d, r)
	if err != nil {
		// The registry forgets the session in time if this fails, too.
		_ = c.CancelUpload(context.WithoutCancel(ctx), repo, id)
	}
	return desc, err
}

func (c *Client) pushBlob(ctx context.Context, repo, id string, d digest.Digest, r io.Reader) (registry.Descriptor, error) {
	b := newBody(r, registry.Chunk{})
	if b.size >= 0 {
		return c.commit(ctx, repo, id, registry.Chunk{}, b, d)
	}
	// Many registries take a body of unknown length only in a PATCH.
	if _, err := c.write(ctx, repo, id, registry.Chunk{}, b); err != nil {
		return registry.Descriptor{}, err
	}
	desc, err := c.commit(ctx, repo, id, registry.Chunk{}, newBody(nil, registry.Chunk{}), d)
	desc.Size = b.length()
	return desc, err
}

// MountBlob makes a blob of from readable in repo.
func (c *Client) MountBlob(ctx context.Context, repo, from string, d digest.Digest) (registry.Descriptor, error) {
	u := c.repoURL(repo, "blobs", "uploads/")
	q := url.Values{"mount": {string(d)}}
	scopes := pushes(repo)
	if from != "" {
		q.Set("from", from)
		scopes = append(scopes, pulls(from)...)
	}
	u.RawQuery = q.Encode()
	resp, err := c.do(ctx, request{
		method: http.MethodPost, url: u, scopes: scopes, missing: registry.ErrBlobUnknown,
		want: []int{http.StatusCreated, http.StatusAccepted},
	})
	if err != nil {
		return registry.Descriptor{}, err
	}
	if err := drain(resp); err != nil {
		return registry.Descriptor{}, err
	}
	if resp.StatusCode == http.StatusCreated {
		return c.StatBlob(ctx, repo, d)
	}
	// Not mounted: the registry began an upload instead.
	if id, err := c.session(resp, repo); err == nil {
		_ = c.CancelUpload(ctx, repo, id)
	}
	return registry.Descriptor{}, registry.ErrBlobUnknown.With("blob %s cannot be mounted", d)
}

// StartUpload begins a session.
func (c *Client) StartUpload(ctx context.Context, repo string, alg digest.Algorithm) (string, error) {
	u := c.repoURL(repo, "blobs", "uploads/")
	if alg != digest.SHA256 {
		u.RawQuery = url.Values{"digest-algorithm": {string(alg)}}.Encode()
	}
	resp, err := c.do(ctx, request{method: http.MethodPost, url: u, scopes: pushes(repo), want: []int{http.StatusAccepted}})
	if err != nil {
		return "", err
	}
	if err := drain(resp); err != nil {
		return "", err
	}
	return c.session(resp, repo)
}

// UploadSize asks how many bytes a session holds.
func (c *Client) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	r, err := c.upload(http.MethodGet, repo, id)
	if err != nil {
		return 0, err
	}
	r.want = []int{http.StatusNoContent, http.StatusOK}
	resp, err := c.do(ctx, r)
	if err != nil {
		return 0, err
	}
	size, err := sizeOf(resp, 0)
	return size, errors.Join(err, drain(resp))
}

// WriteUpload appends r to a session.
func (c *Client) WriteUpload(ctx context.Context, repo, id string, chunk registry.Chunk, r io.Reader) (int64, error) {
	return c.write(ctx, repo, id, chunk, newBody(r, chunk))
}

func (c *Client) write(ctx context.Context, repo, id string, chunk registry.Chunk, b *body) (int64, error) {
	r, err := c.upload(http.MethodPatch, repo, id)
	if err != nil {
		return 0, err
	}
	r.header, r.body = chunkHeader(chunk), b
	r.want = []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated}
	resp, err := c.do(ctx, r)
	if err != nil {
		return 0, err
	}
	c.follow(resp, repo, id)
	size, err := sizeOf(resp, b.length())
	return size, errors.Join(err, drain(resp))
}

// CommitUpload appends r and makes the session's bytes the blob d.
func (c *Client) CommitUpload(ctx context.Context, repo, id string, chunk registry.Chunk, r io.Reader, d digest.Digest) (registry.Descriptor, error) {
	desc, err := c.commit(ctx, repo, id, chunk, newBody(r, chunk), d)
	if err != nil {
		return desc, err
	}
	return c.StatBlob(ctx, repo, d) // for its size
}

func (c *Client) commit(ctx context.Context, repo, id string, chunk registry.Chunk, b *body, d digest.Digest) (registry.Descriptor, error) {
	r, err := c.upload(http.MethodPut, repo, id)
	if err != nil {
		return registry.Descriptor{}, err
	}
	q := r.url.Query()
	q.Set("digest", string(d))
	r.url.RawQuery = q.Encode()
	r.header, r.body = chunkHeader(chunk), b
	r.want = []int{http.StatusCreated, http.StatusNoContent, http.StatusOK}
	resp, err := c.do(ctx, r)
	if err != nil {
		return registry.Descriptor{}, err
	}
	return registry.Descriptor{MediaType: blobType, Digest: d, Size: b.length()}, drain(resp)
}

// CancelUpload ends a session.
func (c *Client) CancelUpload(ctx context.Context, repo, id string) error {
	r, err := c.upload(http.MethodDelete, repo, id)
	if err != nil {
		return err
	}
	r.want = []int{http.StatusNoContent, http.StatusAccepted, http.StatusOK}
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	c.forget(repo, id)
	return drain(resp)
}

func chunkHeader(chunk registry.Chunk) http.Header {
	h := http.Header{"Content-Type": {blobType}}
	if chunk.Known {
		h.Set("Content-Range", fmt.Sprintf("%d-%d", chunk.First, chunk.Last))
	}
	return h
}

// sizeOf reads how much a session holds from the Range header, which says the
// last byte's offset and so the same of no byte and of one: sent, the bytes
// that the request brought, tells these apart.
func sizeOf(resp *http.Response, sent int64) (int64, error) {
	h := strings.TrimPrefix(resp.Header.Get("Range"), "bytes=")
	if h == "" {
		return 0, nil
	}
	first, last, _ := strings.Cut(h, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	switch {
	case h == "0--1":
		return 0, nil
	case err != nil || first != "0" || n < 0:
		return 0, fmt.Errorf("registry %s answered with upload range %q", resp.Request.URL.Host, printable(h))
	case n == 0:
		return min(sent, 1), nil
	}
	return n + 1, nil
}

// upload is a request to a session.
func (c *Client) upload(method, repo, id string) (request, error) {
	u := c.uploadURL(repo, id)
	if u == nil {
		return request{}, registry.ErrUploadUnknown
	}
	return request{method: method, url: u, scopes: pushes(repo), missing: registry.ErrUploadUnknown}, nil
}

// uploadURL is where a session's requests go: to the URL that the registry gave
// last, or else to the one that all registries use which name sessions by path.
func (c *Client) uploadURL(repo, id string) *url.URL {
	c.mu.Lock()
	u, ok := c.sessions[repo+"\x00"+id]
	c.mu.Unlock()
	if ok {
		again := *u
		return &again
	}
	if id == "" || strings.Trim(id, ".") == "" || strings.ContainsFunc(id, notInPath) {
		return nil // a path that would lead elsewhere
	}
	return c.repoURL(repo, "blobs", "uploads/"+id)
}

func notInPath(r rune) bool { return r == '/' || r == '\\' || r < ' ' || r == 0x7f }

// session returns the id of the session that a response began.
func (c *Client) session(resp *http.Response, repo string) (string, error) {
	u, err := c.location(resp)
	if err != nil {
		return "", err
	}
	if u == nil {
		return "", fmt.Errorf("registry %s began an upload without a Location", c.base.Host)
	}
	usual := c.repoURL(repo, "blobs", "uploads/")
	id, ok := strings.CutPrefix(u.Path, usual.Path)
	if !ok || c.uploadURL(repo, id) == nil {
		id = rand.Text()
	}
	c.remember(repo, id, u)
	return id, nil
}

// follow takes note of where a session goes on.
func (c *Client) follow(resp *http.Response, repo, id string) {
	if u, err := c.location(resp); err == nil && u != nil {
		c.remember(repo, id, u)
	}
}

// location is the Location of a response, relative or absolute.
func (c *Client) location(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != c.base.Scheme {
		return nil, fmt.Errorf("registry %s sent an upload from https to %s", c.base.Host, u.Scheme)
	}
	return u, nil
}

func (c *Client) remember(repo, id string, u *url.URL) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := repo + "\x00" + id
	if u.String() == c.repoURL(repo, "blobs", "uploads/"+id).String() {
		delete(c.sessions, key)
		return
	}
	for k := range c.sessions {
		if len(c.sessions) < maxSessions {
			break
		}
		delete(c.sessions, k)
	}
	c.sessions[key] = u
}

func (c *Client) forget(repo, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, repo+"\x00"+id)
}
