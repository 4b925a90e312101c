package admin

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// Usage is what keeps how much is used; a registry.Local is one.
type Usage interface {
	// Usage lists what each repository holds, by name, behind the name after.
	Usage(ctx context.Context, after string) iter.Seq2[registry.Usage, error]
	// UsageOf fails with registry.ErrNameUnknown if a repository holds nothing.
	UsageOf(ctx context.Context, repo string) (registry.Usage, error)
	Usages(ctx context.Context) (registry.Usages, error)
	QuotaUsage(ctx context.Context) ([]registry.QuotaUsage, error)
	Stats(ctx context.Context) (registry.Stats, error)
}

// MaxUsages is how many repositories an answer tells of at most.
const MaxUsages = 10_000

type (
	// RepoUsage is what a repository holds, each digest once. What others hold, too,
	// is told to who administers the registry alone: it says something of them.
	RepoUsage struct {
		Repo      string `json:"repository"`
		Bytes     int64  `json:"bytes"`
		Own       *int64 `json:"own,omitempty"`    // bytes that no other repository holds
		Shared    *int64 `json:"shared,omitempty"` // bytes that others hold, too
		Tags      int64  `json:"tags"`
		Manifests int64  `json:"manifests"`
	}
	// UsageTotal is what all repositories hold.
	UsageTotal struct {
		Stored  int64 `json:"stored"`  // bytes in the store, those that are to be collected included
		Held    int64 `json:"held"`    // bytes that a repository holds, each digest once
		Bytes   int64 `json:"bytes"`   // bytes of each repository, together
		Saved   int64 `json:"saved"`   // bytes that are not stored twice
		Garbage int64 `json:"garbage"` // bytes that no repository holds
		Tags    int64 `json:"tags"`
		Blobs   int64 `json:"blobs"` // stored, manifests included
	}
	// QuotaUsage is how much of a quota is used.
	QuotaUsage struct {
		Name     string `json:"name"`
		Counted  bool   `json:"counted"` // false while it is being counted: it limits nothing yet
		Bytes    int64  `json:"bytes"`
		MaxBytes int64  `json:"max_bytes"` // 0 for any number
		Tags     int64  `json:"tags"`
		MaxTags  int    `json:"max_tags"` // 0 for any number
	}
	// UsagePage is a part of what repositories hold, by name.
	UsagePage struct {
		Counted bool        `json:"counted"` // false while it is being counted: all is too low
		Repos   []RepoUsage `json:"repositories"`
		Next    string      `json:"next,omitempty"` // the next part is behind this name
		// Total and Quotas are for who administers the registry, in the first part.
		Total  *UsageTotal  `json:"total,omitempty"`
		Quotas []QuotaUsage `json:"quotas,omitempty"`
	}
)

// usageQuery is what a request asks for.
type usageQuery struct {
	after string
	most  int
	repos []string
}

func readUsageQuery(raw string) (q usageQuery, err error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return q, ErrRequestInvalid.With("invalid query")
	}
	q = usageQuery{query.Get("after"), MaxUsages, query["repository"]}
	if limit := query.Get("limit"); limit != "" {
		if q.most, err = strconv.Atoi(limit); err != nil || q.most < 1 || q.most > MaxUsages {
			return q, ErrRequestInvalid.With("limit: want a number from 1 to %d", MaxUsages)
		}
	}
	if q.after != "" && !registry.ValidRepository(q.after) {
		return q, ErrRequestInvalid.With("after: want the name of a repository")
	}
	for _, repo := range q.repos {
		if !registry.ValidRepository(repo) {
			return q, ErrRequestInvalid.With("repository: want the name of one")
		}
	}
	return q, nil
}

// usage tells how much repositories hold that the caller may pull.
func (c *call) usage() (int, any, error) {
	if c.Usage == nil {
		return 0, nil, errNotOffered
	}
	q, err := readUsageQuery(c.r.URL.RawQuery)
	if err != nil {
		return 0, nil, err
	}
	sums, err := c.Usage.Usages(c.r.Context())
	if err != nil {
		return 0, nil, err
	}
	page := UsagePage{Counted: sums.Counted, Repos: []RepoUsage{}}
	switch {
	case len(q.repos) > 0:
		err = c.usageOf(&page, q.repos)
	default:
		err = c.usagePage(&page, q)
	}
	if err == nil && c.who.admin && q.after == "" {
		err = c.usageTotal(&page, sums)
	}
	return http.StatusOK, page, err
}

// usageOf tells of some repositories. One that may not be pulled is told to be
// unknown, as one that is.
func (c *call) usageOf(page *UsagePage, repos []string) error {
	for _, repo := range repos {
		if !c.mayPull(repo) && !c.who.admin {
			return registry.ErrNameUnknown.With("repository %s holds nothing", repo)
		}
		u, err := c.Usage.UsageOf(c.r.Context(), repo)
		if err != nil {
			return err
		}
		page.Repos = append(page.Repos, c.newUsage(u))
	}
	return nil
}

func (c *call) newUsage(u registry.Usage) RepoUsage {
	told := RepoUsage{Repo: u.Repo, Bytes: u.Bytes, Tags: u.Tags, Manifests: u.Manifests}
	if own, shared := u.Own, u.Shared(); c.who.admin {
		told.Own, told.Shared = &own, &shared
	}
	return told
}

// usagePage tells of the repositories behind a name. It names none that the caller
// may not pull, as the place to go on from neither.
func (c *call) usagePage(page *UsagePage, q usageQuery) error {
	prefixes := []string{""}
	if !c.who.admin && !c.who.open && !c.who.id.Final {
		prefixes = c.Authority.Prefixes(c.who.id, auth.Pull)
	}
	for _, prefix := range prefixes {
		full, err := c.usageUnder(page, q, prefix)
		if full || err != nil {
			return err
		}
	}
	return nil
}

// usageUnder tells of those whose names start with a prefix, and says whether the
// page is full.
func (c *call) usageUnder(page *UsagePage, q usageQuery, prefix string) (full bool, err error) {
	for u, err := range c.Usage.Usage(c.r.Context(), max(q.after, below(prefix))) {
		if err != nil {
			return false, err
		}
		if !strings.HasPrefix(u.Repo, prefix) {
			if u.Repo < prefix {
				continue
			}
			return false, nil
		}
		if !c.who.admin && !c.mayPull(u.Repo) {
			continue
		}
		if len(page.Repos) == q.most {
			page.Next = page.Repos[q.most-1].Repo
			return true, nil
		}
		page.Repos = append(page.Repos, c.newUsage(u))
	}
	return false, nil
}

// below is a name that sorts just before a prefix and what starts with it.
func below(prefix string) string {
	if prefix == "" {
		return ""
	}
	last := len(prefix) - 1
	return prefix[:last] + string([]byte{prefix[last] - 1, 0xff})
}

// usageTotal tells of all repositories together.
func (c *call) usageTotal(page *UsagePage, sums registry.Usages) error {
	stats, err := c.Usage.Stats(c.r.Context())
	if err != nil {
		return err
	}
	page.Total = &UsageTotal{
		Stored: stats.Bytes, Held: sums.Bytes, Bytes: sums.Sum, Saved: sums.Sum - sums.Bytes,
		Garbage: max(0, stats.Bytes-sums.Bytes), Tags: sums.Tags, Blobs: stats.Blobs,
	}
	quotas, err := c.Usage.QuotaUsage(c.r.Context())
	for _, q := range quotas {
		page.Quotas = append(page.Quotas, QuotaUsage{Name: q.Name, Counted: q.Counted, Bytes: q.Bytes, MaxBytes: q.MaxBytes, Tags: q.Tags, MaxTags: q.MaxTags})
	}
	return err
}

// Usage returns a part of what repositories hold, of those behind the name after; at
// most limit of them, or MaxUsages if that is 0.
func (c *Client) Usage(ctx context.Context, after string, limit int) (page UsagePage, err error) {
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	err = c.call(ctx, "GET", usagePath(query), nil, &page)
	return page, err
}

// UsageOf returns what some repositories hold, all that are named.
func (c *Client) UsageOf(ctx context.Context, repos ...string) (page UsagePage, err error) {
	if len(repos) == 0 {
		return page, errors.New("want a repository")
	}
	err = c.call(ctx, "GET", usagePath(url.Values{"repository": repos}), nil, &page)
	return page, err
}

func usagePath(query url.Values) string { return "usage?" + query.Encode() }
