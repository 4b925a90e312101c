package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

const (
	defaultFound = 25
	mostFound    = 100
)

// Search asks the registry that the term begins with, or else the default one,
// for repositories, by the protocol of Docker Hub's index. The names that it
// returns are without the registry's host, as Docker's are.
func (c *Client) Search(ctx context.Context, req runner.SearchRequest) ([]registry.SearchResult, error) {
	keep, err := searchFilter(req.Filters)
	if err != nil {
		return nil, err
	}
	limit := req.Limit
	if limit == 0 {
		limit = defaultFound
	}
	if limit < 1 || limit > mostFound {
		return nil, runner.Errorf(runner.ErrInvalid, "limit %d is outside the range of [1, %d]", req.Limit, mostFound)
	}
	domain, term, err := c.searchTerm(req.Term)
	if err != nil {
		return nil, err
	}
	cred, err := credential(req.Auth)
	if err != nil {
		return nil, err
	}
	server, err := c.registry(domain, hubIndex)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", domain, err)
	}
	found, err := c.session(server, cred).search(ctx, term, limit)
	if err != nil {
		return nil, classify(err)
	}
	results := []registry.SearchResult{}
	for _, r := range found {
		r.IsAutomated = false //nolint:staticcheck // deprecated, and what the Hub says of it means nothing
		if len(results) < limit && keep(r) {
			results = append(results, r)
		}
	}
	return results, nil
}

func (s *session) search(ctx context.Context, term string, limit int) ([]registry.SearchResult, error) {
	resp, err := s.retry(ctx, call{
		method: http.MethodGet, path: "v1/search",
		query: url.Values{"q": {s.prefix + term}, "n": {strconv.Itoa(limit)}}.Encode(),
		ok:    []int{http.StatusOK}, header: http.Header{"X-Docker-Token": {"true"}},
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, maxManifest)
	if err != nil {
		return nil, err
	}
	var found registry.SearchResults
	if err := json.Unmarshal(data, &found); err != nil {
		return nil, fmt.Errorf("error decoding registry search results: %w", err)
	}
	return found.Results, nil
}

// searchTerm splits what is searched for from where.
func (c *Client) searchTerm(term string) (domain, rest string, err error) {
	if strings.Contains(term, "://") {
		return "", "", runner.Errorf(runner.ErrInvalid, "invalid repository name: repository name (%s) should not have a scheme", term)
	}
	domain = c.o.DefaultRegistry
	if domain == "" {
		domain = hubDomain
	}
	if first, after, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if !isDomain(first) {
			return "", "", runner.Errorf(runner.ErrInvalid, "invalid registry %q", first)
		}
		domain, term = first, after
	}
	if domain == "index."+hubDomain {
		domain = hubDomain
	}
	if domain == hubDomain {
		term = strings.TrimPrefix(term, "library/")
	}
	return domain, term, nil
}

// searchFilter checks the filters and returns what they keep.
func searchFilter(f runner.Filters) (func(registry.SearchResult) bool, error) {
	if err := f.Allow("is-automated", "is-official", "stars"); err != nil {
		return nil, err
	}
	automated, _, err := boolFilter(f, "is-automated")
	if err != nil {
		return nil, err
	}
	official, byOfficial, err := boolFilter(f, "is-official")
	if err != nil {
		return nil, err
	}
	stars := 0
	for _, v := range f["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	return func(r registry.SearchResult) bool {
		return !automated && (!byOfficial || r.IsOfficial == official) && r.StarCount >= stars
	}, nil
}

func boolFilter(f runner.Filters, key string) (value, given bool, err error) {
	values, given := f[key]
	if !given {
		return false, false, nil
	}
	if len(values) == 1 {
		switch values[0] {
		case "1", "true":
			return true, true, nil
		case "0", "false":
			return false, true, nil
		}
	}
	return false, true, runner.Errorf(runner.ErrInvalid, "invalid filter '%s=%s'", key, values)
}
