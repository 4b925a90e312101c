package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxReferrerPages bounds the pages of a list of referrers, and maxReferrers what is
	// kept of all of them: a list is as long as who may push likes it.
	maxReferrerPages = 16
	maxReferrers     = 10000
)

// Referrers lists the manifests that refer to one of the repository by its digest,
// whose artifact type begins with one of prefixes. What mirrors have comes first, and
// mirrors that fail are passed over. A registry without the referrers API has the list
// under a tag instead (OCI distribution specification, "Referrers Tag Schema"). The
// list of one server is cut at 10,000.
func (r *Repo) Referrers(ctx context.Context, subject digest.Digest, prefixes ...string) ([]ocispec.Descriptor, error) {
	if _, _, err := r.target(subject.String()); err != nil {
		return nil, err
	}
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, s := range r.sessions {
		list, err := s.referrers(ctx, r.path, subject, prefixes)
		if err != nil && s.mirror && ctx.Err() == nil {
			r.c.log.WarnContext(ctx, "a mirror fails", "mirror", s.host, "digest", subject, "error", err)
			continue
		}
		if err != nil {
			return nil, classify(err)
		}
		for _, d := range list {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
	}
	return all, nil
}

func (s *session) referrers(ctx context.Context, path string, subject digest.Digest, prefixes []string) ([]ocispec.Descriptor, error) {
	q := call{
		method: http.MethodGet, path: "v2/" + s.prefix + path + "/referrers/" + subject.String(), scopes: pulls(s.prefix + path),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, ok: []int{http.StatusOK},
	}
	var list []ocispec.Descriptor
	for range maxReferrerPages {
		page, next, err := s.referrersPage(ctx, q)
		if isStatus(err, http.StatusNotFound) && q.url == nil {
			// It has no such API, or nothing of the name.
			tagged := s.manifest(http.MethodGet, path, subject.Algorithm().String()+"-"+subject.Encoded())
			page, _, err = s.referrersPage(ctx, tagged)
			if isStatus(err, http.StatusNotFound) {
				return nil, nil
			}
		}
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(d.ArtifactType, p) }) {
				list = append(list, d)
			}
		}
		if next == nil || q.url != nil && *next == *q.url || len(list) >= maxReferrers {
			break
		}
		q.url = next
	}
	return list[:min(len(list), maxReferrers)], nil
}

// referrersPage fetches a page of referrers, and says where the next is.
func (s *session) referrersPage(ctx context.Context, q call) ([]ocispec.Descriptor, *url.URL, error) {
	resp, err := s.retry(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, maxManifest)
	if err != nil {
		return nil, nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, nil, fmt.Errorf("the registry's list of referrers: %w", err)
	}
	next, err := nextPage(resp, "list of referrers")
	return index.Manifests, next, err
}

// nextPage is where the page of a list after a response is; nil if it was the last.
func nextPage(resp *http.Response, what string) (*url.URL, error) {
	link := nextLink(resp.Header)
	if link == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	next, err := resp.Request.URL.Parse(link)
	if err == nil && (next.Host != resp.Request.URL.Host || next.Scheme != resp.Request.URL.Scheme) {
		err = fmt.Errorf("the registry's %s goes on at another host, %s", what, next.Host)
	}
	return next, err
}
