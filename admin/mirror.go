package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/registry"
)

// Mirroring has mirrors of other registries, and copies from them on a schedule. What it
// returns of ErrMirrorUnknown, ErrMirrorRuns and ErrMirror is told to the client as it is.
type Mirroring interface {
	// Mirrors says how the mirrors are, in the order of the configuration.
	Mirrors(ctx context.Context) ([]Mirror, error)
	// MirrorJobs says how the jobs are, in the order of the configuration.
	MirrorJobs(ctx context.Context) ([]MirrorJob, error)
	// RunMirror runs a job now, or with dry only tells what it would do. It tells what
	// happens until tell fails.
	RunMirror(ctx context.Context, name string, dry bool, tell func(MirrorStep) error) error
}

// Errors of mirroring.
var (
	ErrMirrorUnknown = &registry.Error{Code: "MIRROR_UNKNOWN", Status: http.StatusNotFound, Message: "no such job"}
	ErrMirrorRuns    = &registry.Error{Code: "MIRROR_RUNS", Status: http.StatusConflict, Message: "the job runs already"}
	ErrMirror        = &registry.Error{Code: "MIRROR_FAILED", Status: http.StatusBadGateway, Message: "the job has not done all it should"}
)

type (
	// MirrorJob is how a job is that copies from another registry.
	MirrorJob struct {
		Name     string     `json:"name"`
		Mirror   string     `json:"mirror"`
		Schedule string     `json:"schedule"`
		Running  bool       `json:"running"`
		Now      *MirrorRun `json:"now,omitempty"`  // that goes on
		Last     *MirrorRun `json:"last,omitempty"` // that ended last; nil if none did
		Good     *time.Time `json:"good,omitempty"` // end of the last run without a failure; nil for never
		Next     *time.Time `json:"next,omitempty"` // nil for never, or while it runs
	}
	// MirrorRun is a run of a job.
	MirrorRun struct {
		Began    time.Time       `json:"began"`
		Ended    *time.Time      `json:"ended,omitempty"`
		Outcome  string          `json:"outcome,omitempty"` // "ok", "failed", "postponed", "interrupted" or "cut off"
		Reason   string          `json:"reason,omitempty"`  // of an outcome that is not "ok"
		Waits    *time.Time      `json:"waits,omitempty"`   // until when the upstream is not asked
		Counts   MirrorCounts    `json:"counts"`
		Failures []MirrorFailure `json:"failures,omitempty"` // the first of them
	}
	// MirrorCounts count what a run has done.
	MirrorCounts struct {
		Repos     int64 `json:"repositories"` // looked at
		Tags      int64 `json:"tags"`         // that the job is about
		Unchanged int64 `json:"unchanged"`    // of them
		Copied    int64 `json:"copied"`       // of them
		Failed    int64 `json:"failed"`       // of them, and repositories that could not be looked at
		Removed   int64 `json:"removed"`      // tags
		Bytes     int64 `json:"bytes"`        // copied
	}
	// MirrorFailure is what went wrong with a tag or, if there is none, a repository.
	MirrorFailure struct {
		Repo   string `json:"repository"`
		Tag    string `json:"tag,omitempty"`
		Reason string `json:"reason"`
	}
	// MirrorStep is a part of what a run does, or would do.
	MirrorStep struct {
		Done    *MirrorAction  `json:"done,omitempty"`
		Failure *MirrorFailure `json:"failure,omitempty"`
		Waits   *time.Time     `json:"waits,omitempty"` // until when the upstream is not asked
		Steps   int64          `json:"steps"`           // actions but "keep", as far as they are known
		Ended   int64          `json:"ended"`           // of Steps
		Counts  MirrorCounts   `json:"counts"`
	}
	// MirrorAction is something that is done about tags that name the same image.
	MirrorAction struct {
		Action string   `json:"action"` // "keep", "copy" or "remove"
		Repo   string   `json:"repository"`
		From   string   `json:"upstream"` // what the upstream calls the repository
		Digest string   `json:"digest"`
		Tags   []string `json:"tags"`
	}

	// MirrorStatus is how mirrors and jobs are.
	MirrorStatus struct {
		Mirrors []Mirror    `json:"mirrors"`
		Jobs    []MirrorJob `json:"jobs"`
	}
)

// listMirrors says how the mirrors and the jobs are.
func (c *call) listMirrors() (int, any, error) {
	if c.Mirroring == nil {
		return 0, nil, errNotOffered
	}
	mirrors, err := c.Mirroring.Mirrors(c.r.Context())
	if err != nil {
		return 0, nil, err
	}
	jobs, err := c.Mirroring.MirrorJobs(c.r.Context())
	return http.StatusOK, MirrorStatus{nonNil(mirrors), nonNil(jobs)}, err
}

// planMirror tells what a run of a job would do.
func (c *call) planMirror() (int, any, error) { return c.runMirror(true) }

// mirror runs a job. A client that goes ends it: what was not done is done at the
// job's time.
func (c *call) mirror() (int, any, error) { return c.runMirror(false) }

func (c *call) runMirror(dry bool) (int, any, error) {
	if c.Mirroring == nil {
		return 0, nil, errNotOffered
	}
	return steps(c, func(ctx context.Context, tell func(MirrorStep) error) error {
		return c.Mirroring.RunMirror(ctx, c.params[0], dry, tell)
	})
}

// MirrorStatus says how the mirrors of other registries are, and the jobs that copy from
// them.
func (c *Client) MirrorStatus(ctx context.Context) (s MirrorStatus, err error) {
	err = c.call(ctx, http.MethodGet, "mirrors", nil, &s)
	return s, err
}

// MirrorJobs says how the jobs are that copy from other registries.
func (c *Client) MirrorJobs(ctx context.Context) ([]MirrorJob, error) {
	s, err := c.MirrorStatus(ctx)
	return s.Jobs, err
}

// PlanMirror tells each what a run of a job would do.
func (c *Client) PlanMirror(ctx context.Context, name string, each func(MirrorStep) error) error {
	return c.streamMirror(ctx, http.MethodGet, name, each)
}

// Mirror runs a job now, and tells each what it does. To cancel ctx ends it.
func (c *Client) Mirror(ctx context.Context, name string, each func(MirrorStep) error) error {
	return c.streamMirror(ctx, http.MethodPost, name, each)
}

func (c *Client) streamMirror(ctx context.Context, method, name string, each func(MirrorStep) error) error {
	if !validPart(name) {
		return ErrMirrorUnknown
	}
	return c.stream(ctx, method, "mirrors/"+url.PathEscape(name), eachOf(each))
}
