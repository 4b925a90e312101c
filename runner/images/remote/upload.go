package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// upload brings a blob to a repository. It goes in one request; one that breaks
// off goes on where the registry has stopped to receive, if the registry knows.
type upload struct {
	s      *session
	path   string
	desc   ocispec.Descriptor
	source func(off int64) (io.ReadCloser, error)
	sent   func(n int64) // is told how many bytes have gone

	location *url.URL // of the upload's session; nil if there is none
	offset   int64    // how much of the blob it holds
}

func (u *upload) exists(ctx context.Context) (bool, error) {
	resp, err := u.s.retry(ctx, call{
		method: http.MethodHead, path: "v2/" + u.path + "/blobs/" + u.desc.Digest.String(),
		scopes: pushes(u.path), ok: []int{http.StatusOK, http.StatusNotFound},
	})
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

// begin starts a session, unless from is a repository from which the registry
// mounts the blob instead.
func (u *upload) begin(ctx context.Context, from string) (mounted bool, err error) {
	q := call{
		method: http.MethodPost, path: "v2/" + u.path + "/blobs/uploads/", scopes: pushes(u.path),
		ok: []int{http.StatusAccepted},
	}
	if from != "" {
		q.query = url.Values{"mount": {u.desc.Digest.String()}, "from": {from}}.Encode()
		q.scopes = append(q.scopes, auth.ScopeRepository(from, auth.ActionPull))
		q.ok = append(q.ok, http.StatusCreated)
	}
	resp, err := u.s.retry(ctx, q)
	if err != nil {
		return false, err
	}
	defer drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	u.offset = 0
	return false, u.follow(resp)
}

// mount returns the first of the repositories that the registry has mounted the
// blob from, if there is one. What it refuses to mount is uploaded, in the session
// that it has begun instead.
func (u *upload) mount(ctx context.Context, from []string) string {
	for _, repo := range from {
		u.cancel(ctx)
		if mounted, err := u.begin(ctx, repo); err == nil && mounted {
			return repo
		}
	}
	return ""
}

// cancel ends the session, if there is one. The registry forgets it in time if
// that fails.
func (u *upload) cancel(ctx context.Context) {
	if u.location == nil {
		return
	}
	resp, err := u.s.send(ctx, call{
		method: http.MethodDelete, url: u.location, scopes: pushes(u.path), ok: []int{http.StatusNoContent, http.StatusOK},
	})
	if err == nil {
		drain(resp)
	}
	u.location = nil
}

// follow notes where the session goes on.
func (u *upload) follow(resp *http.Response) error {
	l := resp.Header.Get("Location")
	if l == "" {
		return errors.New("the registry does not say where to upload to")
	}
	base := resp.Request.URL
	next, err := base.Parse(l)
	if err != nil {
		return fmt.Errorf("the registry's place for the upload: %w", err)
	}
	if next.Host == base.Host {
		next.Scheme = base.Scheme // behind a proxy a registry may not know of TLS
	}
	if next.Scheme != base.Scheme {
		return fmt.Errorf("the registry wants the upload at %s://%s, not by %s", next.Scheme, next.Host, base.Scheme)
	}
	u.location = next
	return nil
}

// finish sends what the session has not, and makes it the blob.
func (u *upload) finish(ctx context.Context) error {
	if u.offset > 0 && u.offset < u.desc.Size {
		if err := u.rest(ctx); err != nil {
			return err
		}
	}
	q := call{
		method: http.MethodPut, scopes: pushes(u.path), ok: []int{http.StatusCreated, http.StatusNoContent},
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	}
	if u.offset == 0 {
		q.body, q.size = u.body, u.desc.Size
	}
	at := *u.location
	query := at.Query()
	query.Set("digest", u.desc.Digest.String())
	at.RawQuery = query.Encode()
	q.url = &at
	resp, err := u.s.send(ctx, q)
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// rest appends to the session.
func (u *upload) rest(ctx context.Context) error {
	resp, err := u.s.send(ctx, call{
		method: http.MethodPatch, url: u.location, scopes: pushes(u.path),
		ok: []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated},
		header: http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.desc.Size-1)},
		},
		body: u.body, size: u.desc.Size - u.offset,
	})
	if err != nil {
		return err
	}
	defer drain(resp)
	u.offset = u.desc.Size
	return u.follow(resp)
}

// recover asks what the session holds after a failure. If the registry cannot
// tell, another session begins.
func (u *upload) recover(ctx context.Context) {
	if u.location == nil {
		return
	}
	at := u.location
	u.location, u.offset = nil, 0
	resp, err := u.s.send(ctx, call{
		method: http.MethodGet, url: at, scopes: pushes(u.path), ok: []int{http.StatusNoContent, http.StatusOK},
	})
	if err != nil {
		return
	}
	defer drain(resp)
	first, last, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 || n >= u.desc.Size {
		return
	}
	if n == 0 {
		return // 0-0 is what registries say of nothing as of one byte
	}
	if resp.Header.Get("Location") == "" {
		u.location = at
	} else if u.follow(resp) != nil {
		return
	}
	u.offset = n + 1
}

// body opens what the session has not, and counts what goes.
func (u *upload) body() (io.ReadCloser, error) {
	r, err := u.source(u.offset)
	if err != nil {
		return nil, err
	}
	return &counted{r, u.offset, u.sent}, nil
}

type counted struct {
	io.ReadCloser
	n    int64
	sent func(int64)
}

// Read reads on.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	c.sent(c.n)
	return n, err
}
