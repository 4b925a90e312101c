package admin

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// Content is what the API tells of, and changes in, what is stored; a
// registry.Local is one.
type Content interface {
	// History tells what tags have named, the oldest first.
	History(ctx context.Context, repo, tag string) iter.Seq2[registry.TagMove, error]
	// Nodes lists the nodes that have reported what they run.
	Nodes(ctx context.Context) iter.Seq2[registry.Node, error]
	ReportRunning(ctx context.Context, r registry.Report) (until time.Time, unknown []registry.Running, err error)
	RemoveNode(ctx context.Context, name string) error
	// Queue counts what a collection has before it, up to most.
	Queue(ctx context.Context, most int) (registry.Queue, error)
}

// errNotOffered says that this server has no such thing.
var errNotOffered = registry.ErrRouteUnknown.With("this server does not offer it")

// maxReport is how large a report of a node can be: for each manifest, a digest, and
// a repository of the usual length.
const maxReport = registry.MaxRunning * 256

type (
	// Node is a node that has reported what it runs.
	Node struct {
		Name     string    `json:"name"`
		Account  string    `json:"account,omitempty"` // that reports for it
		Reported time.Time `json:"reported"`
		Until    time.Time `json:"until"`   // when the report ends
		Running  int       `json:"running"` // manifests
	}
	// Running is a manifest that a node runs.
	Running struct {
		Repo   string `json:"repository"` // that it was pulled from
		Digest string `json:"digest"`
	}
	// NodeReport is what a node says that it runs: all of it, in place of what it
	// said before.
	NodeReport struct {
		TTL     string    `json:"ttl"` // for which it is kept, such as 1h; at most 168h
		Running []Running `json:"running"`
	}
	// Reported is the answer to a report.
	Reported struct {
		Until   time.Time `json:"until"`
		Unknown []Running `json:"unknown"` // what is not there, or not for who asks, and so is not kept
	}

	nodeList struct {
		Nodes []Node `json:"nodes"`
	}
)

// mayPull says whether the caller may pull a repository.
func (c *call) mayPull(repo string) bool {
	return c.who.local || c.who.open || auth.Allowed(c.Authority, c.who.id, repo, auth.Pull)
}

// reportNode keeps what a node runs, as far as the caller may pull it.
func (c *call) reportNode() (int, any, error) {
	if c.Content == nil {
		return 0, nil, errNotOffered
	}
	var n NodeReport
	if err := decodeMost(c.w, c.r, &n, maxReport); err != nil {
		return 0, nil, err
	}
	ttl, err := time.ParseDuration(n.TTL)
	if err != nil {
		return 0, nil, ErrRequestInvalid.With("field ttl: want a duration such as 1h")
	}
	report := registry.Report{Node: c.params[0], By: c.who.id.Account, Any: c.who.admin, TTL: ttl}
	if len(n.Running) > registry.MaxRunning {
		return 0, nil, ErrRequestInvalid.With("field running: more than %d manifests", registry.MaxRunning)
	}
	answer := Reported{Unknown: []Running{}}
	allowed := map[string]bool{}
	for _, r := range n.Running {
		d, err := registry.ParseDigest(r.Digest)
		if err != nil || !registry.ValidRepository(r.Repo) {
			return 0, nil, ErrRequestInvalid.With("field running: want a repository and a digest each")
		}
		may, asked := allowed[r.Repo]
		if !asked {
			may = c.mayPull(r.Repo)
			allowed[r.Repo] = may
		}
		if !may {
			answer.Unknown = append(answer.Unknown, r)
			continue
		}
		report.Running = append(report.Running, registry.Running{Repo: r.Repo, Digest: d})
	}
	until, unknown, err := c.Content.ReportRunning(c.r.Context(), report)
	if err != nil {
		return 0, nil, err
	}
	answer.Until = until.UTC()
	for _, r := range unknown {
		answer.Unknown = append(answer.Unknown, Running{Repo: r.Repo, Digest: string(r.Digest)})
	}
	return http.StatusOK, answer, nil
}

func (c *call) listNodes() (int, any, error) {
	if c.Content == nil {
		return 0, nil, errNotOffered
	}
	list := nodeList{Nodes: []Node{}}
	for n, err := range c.Content.Nodes(c.r.Context()) {
		if err != nil {
			return 0, nil, err
		}
		list.Nodes = append(list.Nodes, Node{Name: n.Name, Account: n.By, Reported: n.Reported.UTC(), Until: n.Until.UTC(), Running: n.Running})
	}
	return http.StatusOK, list, nil
}

func (c *call) removeNode() (int, any, error) {
	if c.Content == nil {
		return 0, nil, errNotOffered
	}
	err := c.Content.RemoveNode(c.r.Context(), c.params[0])
	if c.Rollouts == nil || err != nil && !errors.Is(err, registry.ErrNodeUnknown) {
		return http.StatusNoContent, nil, err
	}
	followed, ferr := c.Rollouts.Forget(c.r.Context(), c.params[0])
	if ferr != nil || followed > 0 {
		err = ferr
	}
	return http.StatusNoContent, nil, err
}

// nodeError is what a client is told of an error of package registry about nodes, or
// nil.
func nodeError(err error) error {
	switch {
	case errors.Is(err, registry.ErrNodeInvalid):
		return ErrRequestInvalid.With("%v", err)
	case errors.Is(err, registry.ErrNodeUnknown):
		return ErrNodeUnknown
	case errors.Is(err, registry.ErrNodeNewer):
		return ErrNodeNewer
	case errors.Is(err, registry.ErrNodeTaken), errors.Is(err, registry.ErrNodesMany):
		return registry.ErrDenied.With("%v", err)
	}
	return nil
}

// Nodes lists the nodes that have reported what they run.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var list nodeList
	err := c.call(ctx, "GET", "nodes", nil, &list)
	return list.Nodes, err
}

// ReportNode says what a node runs.
func (c *Client) ReportNode(ctx context.Context, name string, n NodeReport) (r Reported, err error) {
	if n.Running == nil {
		n.Running = []Running{}
	}
	err = c.callNamed(ctx, "POST", "nodes/", name, "", ErrNodeUnknown, n, &r)
	return r, err
}

// RemoveNode lets go of all that a node has reported.
func (c *Client) RemoveNode(ctx context.Context, name string) error {
	return c.callNamed(ctx, "DELETE", "nodes/", name, "", ErrNodeUnknown, nil, nil)
}

// History tells what the tags of a repository have named, the latest first; of one
// tag, if tag is not empty. It returns up to most moves.
func (c *Client) History(ctx context.Context, repo, tag string, most int) (h History, err error) {
	query := url.Values{"repository": {repo}, "limit": {strconv.Itoa(most)}}
	if tag != "" {
		query.Set("tag", tag)
	}
	err = c.call(ctx, "GET", "history?"+query.Encode(), nil, &h)
	return h, err
}
