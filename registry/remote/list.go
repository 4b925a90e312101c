package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/registry"
)

// Repositories lists the repositories of the registry's catalog.
func (c *Client) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	type page struct {
		Repositories []string `json:"repositories"`
	}
	first := request{url: c.url("v2/_catalog"), scopes: []string{auth.ScopeRegistryCatalog}}
	list := names(ctx, c, first, after, func(p page) []string { return p.Repositories })
	return func(yield func(string, error) bool) {
		if err := c.signIn(ctx); err != nil {
			yield("", err)
			return
		}
		list(yield)
	}
}

// signIn has the doer send the credentials that it has from now on. It sends none
// before it is asked for them, and a registry may list to anybody what is public,
// and ask for them nowhere but at its root. Who has none is nobody still.
func (c *Client) signIn(ctx context.Context) error {
	err := c.Ping(auth.AppendScopesForHost(ctx, c.base.Host, auth.ScopeRegistryCatalog))
	if _, ok := errors.AsType[*registry.Error](err); ok || errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return nil // the list itself tells what that means
	}
	return err
}

// Tags lists the tags of repo.
func (c *Client) Tags(ctx context.Context, repo, after string) iter.Seq2[string, error] {
	type page struct {
		Tags []string `json:"tags"`
	}
	first := request{url: c.repoURL(repo, "tags", "list"), scopes: pulls(repo), missing: registry.ErrNameUnknown}
	return names(ctx, c, first, after, func(p page) []string { return p.Tags })
}

// names lists what the pages from first on hold.
func names[P any](ctx context.Context, c *Client, first request, after string, of func(P) []string) iter.Seq2[string, error] {
	q := url.Values{"n": {strconv.Itoa(pageLength)}}
	if after != "" {
		q.Set("last", after)
	}
	return func(yield func(string, error) bool) {
		r := first
		r.url = withQuery(first.url, q)
		for p, err := range pages[P](ctx, c, r) {
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range of(p) {
				if !yield(name, nil) {
					return
				}
			}
		}
	}
}

// Referrers lists the manifests whose subject is d. A registry may list them in
// any order and ignore the filter, so that all are fetched before the first is
// yielded.
func (c *Client) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[registry.Descriptor, error] {
	return func(yield func(registry.Descriptor, error) bool) {
		all, err := c.referrers(ctx, repo, d, artifactType)
		if err != nil {
			yield(registry.Descriptor{}, err)
			return
		}
		for _, desc := range all {
			if desc.Digest > after && !yield(desc, nil) {
				return
			}
		}
	}
}

func (c *Client) referrers(ctx context.Context, repo string, d digest.Digest, artifactType string) ([]registry.Descriptor, error) {
	u := c.repoURL(repo, "referrers", string(d))
	if artifactType != "" {
		u = withQuery(u, url.Values{"artifactType": {artifactType}})
	}
	var all []registry.Descriptor
	for p, err := range pages[ocispec.Index](ctx, c, request{url: u, scopes: pulls(repo)}) {
		if errors.Is(err, registry.ErrRouteUnknown) || errors.Is(err, registry.ErrNameUnknown) {
			break // a registry before 1.1, or one that says so of an empty list
		}
		if err != nil {
			return nil, err
		}
		for _, desc := range p.Manifests {
			if artifactType == "" || desc.ArtifactType == artifactType {
				all = append(all, desc)
			}
		}
		if len(all) > maxReferrers {
			return nil, fmt.Errorf("registry %s lists more than %d referrers of %s", c.base.Host, maxReferrers, d)
		}
	}
	slices.SortFunc(all, func(a, b registry.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return all, nil
}

// maxReferrers bounds what a list of referrers takes of memory.
const maxReferrers = 100_000

// pages yields the pages of a list, each behind the Link of the one before it.
func pages[P any](ctx context.Context, c *Client, r request) iter.Seq2[P, error] {
	r.method, r.want = http.MethodGet, []int{http.StatusOK}
	return func(yield func(P, error) bool) {
		for r.url != nil {
			p, next, err := page[P](ctx, c, r)
			if !yield(p, err) || err != nil {
				return
			}
			if next != nil && next.String() == r.url.String() {
				return // a list that leads to itself
			}
			r.url = next
		}
	}
}

func page[P any](ctx context.Context, c *Client, r request) (p P, next *url.URL, err error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return p, nil, err
	}
	data, err := readAll(resp, maxPage)
	if err != nil {
		return p, nil, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, nil, fmt.Errorf("registry %s sent a list that is not valid: %w", c.base.Host, err)
	}
	next, err = c.next(resp)
	return p, next, err
}

// next reads the Link to the next page, if there is one (RFC 8288). Its path
// and query count: a registry behind a proxy may not know its own host, and a
// list never continues at another registry.
func (c *Client) next(resp *http.Response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimSpace(link), ">")
		if !ok || !strings.HasPrefix(target, "<") || !isNext(params) {
			continue
		}
		u, err := resp.Request.URL.Parse(target[1:])
		if err != nil {
			return nil, fmt.Errorf("registry %s sent a Link that is not valid: %w", c.base.Host, err)
		}
		u.Scheme, u.Host, u.User = c.base.Scheme, c.base.Host, nil
		return u, nil
	}
	return nil, nil
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(k, "rel") && strings.EqualFold(strings.Trim(v, `" `), "next") {
			return true
		}
	}
	return false
}

// Search lists repositories with term in their name, with the protocol of
// "docker search": /v1/search, which OCI registries need not have, and which may
// answer with the best matches only.
func (c *Client) Search(ctx context.Context, term string) iter.Seq2[registry.SearchResult, error] {
	return func(yield func(registry.SearchResult, error) bool) {
		for n := 1; ; n++ {
			p, err := c.search(ctx, term, n)
			if err != nil {
				yield(registry.SearchResult{}, err)
				return
			}
			for _, r := range p.Results {
				if !yield(registry.SearchResult{Name: r.Name, Description: r.Description}, nil) {
					return
				}
			}
			if n >= p.Pages || len(p.Results) == 0 {
				return
			}
		}
	}
}

type searchPage struct {
	Pages   int `json:"num_pages"`
	Results []struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	} `json:"results"`
}

func (c *Client) search(ctx context.Context, term string, n int) (searchPage, error) {
	q := url.Values{"q": {term}, "n": {"100"}}
	if n > 1 {
		q.Set("page", strconv.Itoa(n))
	}
	r := request{method: http.MethodGet, url: withQuery(c.url("v1/search"), q), want: []int{http.StatusOK}}
	p, _, err := page[searchPage](ctx, c, r)
	return p, err
}

func withQuery(u *url.URL, q url.Values) *url.URL {
	with := *u
	with.RawQuery = q.Encode()
	return &with
}
