package registry

import (
	"cmp"
	"encoding/json"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxPage is how many names an answer lists at most; the rest is on further
	// pages.
	maxPage = 10_000
	// maxReferrers is how many referrers an answer lists at most, and
	// referrersBytes how many bytes of them it begins one more with: their
	// annotations may be long.
	maxReferrers   = 1000
	referrersBytes = 1 << 20
	// maxFound is how many repositories a search returns at most.
	maxFound = 100
)

// limit is how many elements the page may have.
func (p Page) limit(most int) int {
	if p.Set {
		return min(p.N, most)
	}
	return most
}

// collect takes up to n elements of a list, and says whether there are more.
func collect[T any](list iter.Seq2[T, error], n int) (page []T, more bool, err error) {
	page = make([]T, 0, min(n, 128))
	for v, err := range list {
		if err != nil {
			return nil, false, err
		}
		if len(page) == n {
			return page, n > 0, nil
		}
		page = append(page, v)
	}
	return page, false, nil
}

// link sends the client to the next page, which starts after last.
func (x *exchange) link(last string, limit int) {
	q := url.Values{"last": {last}, "n": {strconv.Itoa(limit)}}
	if x.Filter != "" {
		q.Set("artifactType", x.Filter)
	}
	x.w.Header().Set("Link", "<"+x.r.URL.EscapedPath()+"?"+q.Encode()+`>; rel="next"`)
}

// names answers with a page of names.
func (x *exchange) names(list iter.Seq2[string, error]) ([]string, error) {
	limit := x.Page.limit(maxPage)
	page, more, err := collect(list, limit)
	if err == nil && more {
		x.link(page[len(page)-1], limit)
	}
	return page, err
}

// tags lists tags (specification, "Listing Tags").
func (x *exchange) tags() error {
	page, err := x.names(x.registry.Tags(x.ctx(), x.Repo, x.Page.Last))
	if err != nil {
		return err
	}
	return x.json("application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{x.Repo, page})
}

// repositories lists repositories (Docker registry API, "Catalog").
func (x *exchange) repositories() error {
	page, err := x.names(x.registry.Repositories(x.ctx(), x.Page.Last))
	if err != nil {
		return err
	}
	return x.json("application/json", struct {
		Repositories []string `json:"repositories"`
	}{page})
}

// referrers lists the manifests that refer to another (specification, "Listing
// Referrers").
func (x *exchange) referrers() error {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []Descriptor{}}
	index.SchemaVersion = 2
	h := x.w.Header()
	if x.Filter != "" {
		h.Set("OCI-Filters-Applied", "artifactType")
	}
	limit, size := x.Page.limit(maxReferrers), 0
	for d, err := range x.registry.Referrers(x.ctx(), x.Repo, x.Digest, x.Filter, digest.Digest(x.Page.Last)) {
		if err != nil {
			return err
		}
		if n := len(index.Manifests); n == limit || size > referrersBytes {
			if n > 0 {
				x.link(string(index.Manifests[n-1].Digest), limit)
			}
			break
		}
		encoded, err := json.Marshal(d)
		if err != nil {
			return err
		}
		size += len(encoded)
		index.Manifests = append(index.Manifests, d)
	}
	return x.json(ocispec.MediaTypeImageIndex, index)
}

// searchBase answers that there is a search (Docker Registry API 1, "Status").
func (x *exchange) searchBase() error {
	x.w.Header().Set("X-Docker-Registry-Standalone", "true")
	return x.json("application/json", map[string]bool{"standalone": true})
}

// searchAnswer is the answer to a search (Docker Registry API 1, "Search").
type searchAnswer struct {
	Query   string        `json:"query"`
	Count   int           `json:"num_results"`
	Results []searchEntry `json:"results"`
}

type searchEntry struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// search finds repositories by a part of their name, the likeliest first.
func (x *exchange) search() error {
	term := strings.ToLower(strings.TrimSpace(x.Term))
	limit := maxFound
	if x.Page.Set && x.Page.N > 0 {
		limit = min(x.Page.N, maxFound)
	}
	var found []SearchResult
	better := func(a, b SearchResult) int {
		return cmp.Or(cmp.Compare(rank(a.Name, term), rank(b.Name, term)), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	}
	for r, err := range x.registry.Search(x.ctx(), term) {
		if err != nil {
			return err
		}
		// Keep the best: at most twice as many as asked for are in memory.
		if found = append(found, r); len(found) == 2*limit {
			slices.SortFunc(found, better)
			found = found[:limit]
		}
	}
	slices.SortFunc(found, better)
	answer := searchAnswer{Query: x.Term, Results: []searchEntry{}}
	for _, r := range found[:min(limit, len(found))] {
		answer.Results = append(answer.Results, searchEntry{Name: r.Name, Description: r.Description})
	}
	answer.Count = len(answer.Results)
	return x.json("application/json", answer)
}

// rank is how well a name matches a term; 0 is best: the name itself, its last
// component, the start of that, the start of another component, anywhere.
func rank(name, term string) int {
	last := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case name == term:
		return 0
	case last == term:
		return 1
	case strings.HasPrefix(last, term):
		return 2
	case strings.HasPrefix(name, term), strings.Contains(name, "/"+term):
		return 3
	default:
		return 4
	}
}
