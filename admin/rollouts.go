package admin

import (
	"context"
	"net/http"
	"net/url"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/rollout"
)

// RolloutList is the rollouts of the repositories that a caller may pull.
type RolloutList struct {
	Rollouts []rollout.Summary `json:"rollouts"`
	More     bool              `json:"more"` // there are others
}

func (c *call) listRollouts() (int, any, error) {
	if c.Rollouts == nil {
		return 0, nil, errNotOffered
	}
	known := map[string]bool{}
	list, more, err := c.Rollouts.List(c.r.Context(), func(repo string) bool {
		may, asked := known[repo]
		if !asked {
			may = c.mayPull(repo)
			known[repo] = may
		}
		return may
	})
	return http.StatusOK, RolloutList{nonNil(list), more}, err
}

func (c *call) rollout() (int, any, error) {
	ref, err := c.ref(auth.Pull)
	if err != nil {
		return 0, nil, err
	}
	s, err := c.Rollouts.Status(c.r.Context(), ref)
	return http.StatusOK, s, err
}

func (c *call) pauseRollout() (int, any, error) {
	return c.steer(func(ref rollout.Ref) error { return c.Rollouts.Pause(c.r.Context(), ref, c.who.id.Account) })
}

func (c *call) resumeRollout() (int, any, error) {
	return c.steer(func(ref rollout.Ref) error { return c.Rollouts.Resume(c.r.Context(), ref) })
}

func (c *call) undoRollout() (int, any, error) {
	return c.steer(func(ref rollout.Ref) error { return c.Rollouts.Undo(c.r.Context(), ref) })
}

// steer changes a rollout, and tells how it is then.
func (c *call) steer(change func(rollout.Ref) error) (int, any, error) {
	ref, err := c.ref(auth.Push)
	if err != nil {
		return 0, nil, err
	}
	if err := decode(c.w, c.r, &struct{}{}); err != nil {
		return 0, nil, err
	}
	if err := change(ref); err != nil {
		return 0, nil, err
	}
	s, err := c.Rollouts.Status(c.r.Context(), ref)
	return http.StatusOK, s, err
}

func escaped(ref rollout.Ref) string { return url.PathEscape(ref.String()) }

// Rollouts lists the rollouts that the client may see.
func (c *Client) Rollouts(ctx context.Context) (list RolloutList, err error) {
	err = c.call(ctx, "GET", "rollouts", nil, &list)
	return list, err
}

// Rollout tells how a rollout is.
func (c *Client) Rollout(ctx context.Context, ref rollout.Ref) (s rollout.Status, err error) {
	err = c.call(ctx, "GET", "rollouts/"+escaped(ref), nil, &s)
	return s, err
}

// PauseRollout has no other node deploy until ResumeRollout.
func (c *Client) PauseRollout(ctx context.Context, ref rollout.Ref) (s rollout.Status, err error) {
	err = c.call(ctx, "POST", "rollouts/"+escaped(ref)+"/pause", struct{}{}, &s)
	return s, err
}

// ResumeRollout has a rollout go on.
func (c *Client) ResumeRollout(ctx context.Context, ref rollout.Ref) (s rollout.Status, err error) {
	err = c.call(ctx, "POST", "rollouts/"+escaped(ref)+"/resume", struct{}{}, &s)
	return s, err
}

// UndoRollout moves the tag back to what all nodes ran before.
func (c *Client) UndoRollout(ctx context.Context, ref rollout.Ref) (s rollout.Status, err error) {
	err = c.call(ctx, "POST", "rollouts/"+escaped(ref)+"/undo", struct{}{}, &s)
	return s, err
}
