package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/auth"
)

// Retention removes tags that the rules of the configuration do not keep.
type Retention interface {
	// PlanTags tells each what would become of tags now, of those that are kept only
	// if kept is set, until it fails.
	PlanTags(ctx context.Context, repos func(string) bool, kept bool, each func(RetainedTag) error) error
	// RetainTags removes what PlanTags says would be removed, and tells each of it.
	RetainTags(ctx context.Context, repos func(string) bool, each func(RetentionStep)) error
	// RetentionRules is how many rules there are.
	RetentionRules() int
}

// retentionBatch is how many tags are told of in one line.
const retentionBatch = 200

type (
	// RetainedTag is what becomes of a tag, and why.
	RetainedTag struct {
		Repo   string     `json:"repository"`
		Tag    string     `json:"tag"`
		Digest string     `json:"digest"`
		Pushed time.Time  `json:"pushed"`           // last
		Pulled *time.Time `json:"pulled,omitempty"` // last, to within an hour; nil for never, or if no rule asks
		Remove bool       `json:"remove"`
		Rule   int        `json:"rule,omitempty"` // the number of the rule that decides, from 1; 0 if none is about the tag
		Kept   string     `json:"kept,omitempty"` // what keeps it: a key of the rule, "no rule", "immutable" or "running"
	}
	// RetentionStep is a part of a plan, or of what is done.
	RetentionStep struct {
		Rules   *int          `json:"rules,omitempty"`   // how many there are, in the first part
		Tags    []RetainedTag `json:"tags,omitempty"`    // planned, or removed
		Checked int64         `json:"checked,omitempty"` // tags that were looked at so far
		Removed int64         `json:"removed,omitempty"` // so far
		Spared  int64         `json:"spared,omitempty"`  // that changed just when they were to be removed, so far
	}
)

// repos is the repositories that a request is about: those that its pattern matches.
func (c *call) repos() (func(string) bool, error) {
	pattern := c.r.URL.Query().Get("repo")
	switch {
	case pattern == "":
		return func(string) bool { return true }, nil
	case !auth.ValidPattern(pattern):
		return nil, ErrRequestInvalid.With("repo: want a pattern of repositories such as team/**")
	}
	return func(repo string) bool { return auth.Match(pattern, repo) }, nil
}

// planRetention tells what becomes of tags.
func (c *call) planRetention() (int, any, error) {
	if c.Retention == nil {
		return 0, nil, errNotOffered
	}
	repos, err := c.repos()
	if err != nil {
		return 0, nil, err
	}
	return c.stream(func(ctx context.Context, send func(any) error) error {
		rules := c.Retention.RetentionRules()
		if err := send(RetentionStep{Rules: &rules}); err != nil {
			return err
		}
		var batch []RetainedTag
		err := c.Retention.PlanTags(ctx, repos, c.r.URL.Query().Get("all") == "true", func(t RetainedTag) error {
			if batch = append(batch, t); len(batch) < retentionBatch {
				return nil
			}
			some := batch
			batch = batch[:0]
			return send(RetentionStep{Tags: some})
		})
		if err == nil && len(batch) > 0 {
			err = send(RetentionStep{Tags: batch})
		}
		return err
	})
}

// retain removes tags. A client that goes ends it: what was not done is done in time.
func (c *call) retain() (int, any, error) {
	if c.Retention == nil {
		return 0, nil, errNotOffered
	}
	repos, err := c.repos()
	if err != nil {
		return 0, nil, err
	}
	return c.stream(func(ctx context.Context, send func(any) error) error {
		rules := c.Retention.RetentionRules()
		if err := send(RetentionStep{Rules: &rules}); err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		err := c.Retention.RetainTags(ctx, repos, func(step RetentionStep) {
			if err := send(step); err != nil {
				cancel(err)
			}
		})
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		return err
	})
}

// PlanRetention tells each what would become of the tags of the repositories that a
// pattern matches, of all if it is empty; of those that are kept only if kept is set.
func (c *Client) PlanRetention(ctx context.Context, pattern string, kept bool, each func(RetentionStep) error) error {
	query := url.Values{}
	if kept {
		query.Set("all", "true")
	}
	return c.retention(ctx, http.MethodGet, pattern, query, each)
}

// Retain removes what PlanRetention says would be removed, and tells each what it
// does. To cancel ctx ends it.
func (c *Client) Retain(ctx context.Context, pattern string, each func(RetentionStep) error) error {
	return c.retention(ctx, http.MethodPost, pattern, url.Values{}, each)
}

func (c *Client) retention(ctx context.Context, method, pattern string, query url.Values, each func(RetentionStep) error) error {
	path := "retention"
	if pattern != "" {
		query.Set("repo", pattern)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.stream(ctx, method, path, eachOf(each))
}
