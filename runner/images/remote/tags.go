package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// Tags lists the tags of the repository as the registry orders them.
func (r *Repo) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if r.err != nil {
			yield("", r.err)
			return
		}
		s := r.upstream()
		q := call{
			method: http.MethodGet, path: "v2/" + s.prefix + r.path + "/tags/list",
			query: "n=" + strconv.Itoa(1000), scopes: pulls(s.prefix + r.path), ok: []int{http.StatusOK},
		}
		for range maxPages {
			tags, next, err := s.tags(ctx, q)
			if err != nil {
				yield("", pullError(reference.TrimNamed(r.name), err))
				return
			}
			for _, t := range tags {
				if !yield(t, nil) {
					return
				}
			}
			if next == nil || q.url != nil && *next == *q.url {
				return
			}
			q.url = next
		}
		yield("", errors.New("the registry's list of tags does not end"))
	}
}

// tags fetches a page of tags, and says where the next is.
func (s *session) tags(ctx context.Context, q call) ([]string, *url.URL, error) {
	resp, err := s.retry(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, maxPage)
	if err != nil {
		return nil, nil, err
	}
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(data, &page); err != nil {
		return nil, nil, fmt.Errorf("the registry's list of tags: %w", err)
	}
	next, err := nextPage(resp, "list of tags")
	return page.Tags, next, err
}

// nextLink is the target of the link to the next page (RFC 5988), if there is one.
func nextLink(h http.Header) string {
	for _, v := range h.Values("Link") {
		target, params, ok := strings.Cut(v, ">")
		if ok && strings.HasPrefix(target, "<") && strings.Contains(strings.ReplaceAll(params, " ", ""), `rel="next"`) {
			return target[1:]
		}
	}
	return ""
}
