package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/runner"
)

// maxFollowAnswer is how large the answer to one who follows may be.
const maxFollowAnswer = 1 << 20

// Followed is a tag that is followed at its registry, never its mirrors. Unlike a
// Repo it lasts: tokens are kept until the registry wants others, and what is
// configured of the registry is read again after a failure. It is safe for concurrent
// use.
type Followed struct {
	c     *Client
	name  reference.NamedTagged
	login func() (*registry.AuthConfig, error)

	mu      sync.Mutex
	session *session // nil if it is to be made anew
	cred    auth.Credential
}

// Followed is the tag of a name. The login is asked for before each request, so that a
// password may change.
func (c *Client) Followed(name reference.NamedTagged, login func() (*registry.AuthConfig, error)) *Followed {
	return &Followed{c: c, name: name, login: login}
}

type (
	followReport struct {
		Node     string             `json:"node"`
		Labels   map[string]string  `json:"labels,omitempty"`
		Running  digest.Digest      `json:"running"`
		Target   digest.Digest      `json:"target"`
		State    runner.FollowState `json:"state"`
		Error    string             `json:"error,omitempty"`
		Log      []string           `json:"log,omitempty"`
		Since    time.Time          `json:"since"`
		Interval string             `json:"interval"`
	}
	followAnswer struct {
		Digest  digest.Digest `json:"digest"`
		Tag     digest.Digest `json:"tag"`
		Version string        `json:"version"`
		Reason  string        `json:"reason"`
		Rollout struct {
			State   string `json:"state"`
			Attempt int64  `json:"attempt"`
		} `json:"rollout"`
	}
	watchAnswer struct {
		Version string `json:"version"`
	}
)

// Report tells how the node is doing, and returns what it is to do. Errors are
// runner.ErrUnauthorized, runner.ErrForbidden, runner.ErrInvalid and runner.ErrConflict
// where the registry says so, and runner.ErrNotFound if it has no such repository or
// cannot be followed so: only Berth can.
func (f *Followed) Report(ctx context.Context, r runner.FollowReport) (runner.FollowAnswer, error) {
	body, err := json.Marshal(followReport{
		Node: r.Node, Labels: r.Labels, Running: r.Running, Target: r.Target, State: r.State,
		Error: r.Error, Log: r.Log, Since: r.Since.UTC(), Interval: r.Interval.String(),
	})
	if err != nil {
		return runner.FollowAnswer{}, err
	}
	var a followAnswer
	err = f.ask(ctx, "follow", "", call{
		method: http.MethodPost, header: http.Header{"Content-Type": {"application/json"}},
		body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }, size: int64(len(body)),
		ok: []int{http.StatusOK},
	}, &a)
	if err != nil {
		return runner.FollowAnswer{}, err
	}
	for _, d := range []digest.Digest{a.Digest, a.Tag} {
		if d != "" && d.Validate() != nil {
			return runner.FollowAnswer{}, fmt.Errorf("the registry names a digest %q, which is none", printable(d.String()))
		}
	}
	return runner.FollowAnswer{
		Digest: a.Digest, Tag: a.Tag, Version: a.Version, Reason: printable(a.Reason),
		Rollout: runner.FollowRollout{State: printable(a.Rollout.State), Attempt: a.Rollout.Attempt},
	}, nil
}

// Watch waits until what a node is told has another version, and returns that; it
// returns the same when the time is over. Errors are those of Report.
func (f *Followed) Watch(ctx context.Context, version string, most time.Duration) (string, error) {
	query := url.Values{"version": {version}, "timeout": {most.String()}}.Encode()
	a := watchAnswer{Version: version}
	err := f.ask(ctx, "watch", query, call{method: http.MethodGet, ok: []int{http.StatusOK, http.StatusNoContent}, silent: most}, &a)
	return a.Version, err
}

// Head returns the digest that the tag names, asking no more than whether it is still
// the one known. Errors are runner.ErrNotFound, runner.ErrUnauthorized and
// runner.ErrForbidden where the registry says so.
func (f *Followed) Head(ctx context.Context, known digest.Digest) (digest.Digest, error) {
	s, err := f.open()
	if err != nil {
		return "", err
	}
	q := s.manifest(http.MethodHead, reference.Path(f.name), f.name.Tag())
	if known != "" {
		q.header.Set("If-None-Match", `"`+known.String()+`"`)
		q.ok = append(q.ok, http.StatusNotModified)
	}
	resp, err := s.send(ctx, q)
	if err != nil {
		f.failed(s, err)
		return "", classify(err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return known, nil
	}
	desc, ok, err := described(resp, f.name.Tag())
	if err != nil || ok {
		return desc.Digest, err
	}
	// It does not tell all in a HEAD.
	desc, err = s.resolve(ctx, reference.Path(f.name), f.name.Tag())
	return desc.Digest, classify(err)
}

// ask makes a request of Berth's API about the tag, and reads the answer if there is
// one.
func (f *Followed) ask(ctx context.Context, what, query string, q call, answer any) error {
	s, err := f.open()
	if err != nil {
		return err
	}
	if q.url, err = s.base(ctx); err != nil {
		f.failed(s, err)
		return err
	}
	q.url = q.url.JoinPath("api/v1", what, url.PathEscape(s.prefix+reference.Path(f.name)+":"+f.name.Tag()))
	q.url.RawQuery = query
	q.scopes = pulls(s.prefix + reference.Path(f.name))
	resp, err := s.send(ctx, q)
	if err != nil {
		f.failed(s, err)
		return useError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	data, err := readAll(resp.Body, maxFollowAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return runner.Errorf(runner.ErrNotFound, "%s answers as no berth registry does: %w", s.host, err)
	}
	return nil
}

// open returns the session, with the login of now.
func (f *Followed) open() (*session, error) {
	login, err := f.login()
	if err != nil {
		return nil, runner.Errorf(runner.ErrUnauthorized, "%w", err)
	}
	cred, err := credential(login)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.session != nil && f.cred == cred {
		return f.session, nil
	}
	server, err := f.c.registry(reference.Domain(f.name), hubRegistry)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", reference.Domain(f.name), err)
	}
	f.session, f.cred = f.c.session(server, cred), cred
	return f.session, nil
}

// failed has the next request begin anew after a failure that other certificates or
// tokens might end.
func (f *Followed) failed(s *session, err error) {
	if resp, ok := errors.AsType[*responseError](err); ok && resp.status != http.StatusUnauthorized && resp.status != http.StatusForbidden {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.session == s {
		f.session = nil
	}
}
