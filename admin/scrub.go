package admin

import (
	"context"
	"net/http"
	"time"
)

// Scrubber reads what is stored again and again, to see whether it is what it should
// be.
type Scrubber interface {
	// ScrubStatus tells of damaged blobs, up to most, and of as many of the
	// repositories that need each.
	ScrubStatus(ctx context.Context, most int) (ScrubStatus, error)
	// StartScrub begins a round now, unless one goes on already.
	StartScrub(ctx context.Context) (ScrubStarted, error)
}

// MaxDamaged is how many damaged blobs an answer lists at most, and of how many
// repositories it tells that need one.
const MaxDamaged = 1000

type (
	// ScrubStatus is how the check of what is stored goes.
	ScrubStatus struct {
		Running bool           `json:"running"`         // a round goes on just now
		Wanted  bool           `json:"wanted"`          // a round begins as soon as a server runs
		Round   *ScrubRound    `json:"round,omitempty"` // that goes on, or waits to
		Last    *ScrubRound    `json:"last,omitempty"`  // that has finished
		Next    *time.Time     `json:"next,omitempty"`  // when one begins
		Problem string         `json:"problem,omitempty"`
		Blobs   int64          `json:"blobs"`         // stored
		Bytes   int64          `json:"bytes"`         // in them
		Count   int64          `json:"damaged_count"` // damaged blobs
		Damaged []DamagedBytes `json:"damaged"`       // the first of them
	}
	// ScrubRound is a round of the check.
	ScrubRound struct {
		Began    time.Time  `json:"began"`
		Finished *time.Time `json:"finished,omitempty"`
		Blobs    int64      `json:"blobs"` // checked
		Bytes    int64      `json:"bytes"` // in them
		Damaged  int64      `json:"damaged"`
		Leaked   int64      `json:"leaked"` // that the metadata did not know
	}
	// DamagedBytes is stored content that clients have to push again.
	DamagedBytes struct {
		Digest      string    `json:"digest"`
		Damage      string    `json:"damage"` // missing, size, digest or unreadable
		Size        int64     `json:"size"`   // bytes that there should be
		Since       time.Time `json:"since"`
		Quarantined bool      `json:"quarantined"`  // the bytes can be looked at
		Repos       []string  `json:"repositories"` // that need it
	}
	// ScrubStarted says whether a round was begun.
	ScrubStarted struct {
		Started bool `json:"started"` // false: one goes on already
		Waits   bool `json:"waits"`   // until a server runs
	}
)

// scrubStatus tells how the scrub is.
func (c *call) scrubStatus() (int, any, error) {
	if c.Scrub == nil {
		return 0, nil, errNotOffered
	}
	st, err := c.Scrub.ScrubStatus(c.r.Context(), MaxDamaged)
	st.Damaged = nonNil(st.Damaged)
	for i := range st.Damaged {
		st.Damaged[i].Repos = nonNil(st.Damaged[i].Repos)
	}
	return http.StatusOK, st, err
}

// startScrub begins a round.
func (c *call) startScrub() (int, any, error) {
	if c.Scrub == nil {
		return 0, nil, errNotOffered
	}
	started, err := c.Scrub.StartScrub(c.r.Context())
	return http.StatusAccepted, started, err
}

// ScrubStatus tells how the check of what is stored goes.
func (c *Client) ScrubStatus(ctx context.Context) (st ScrubStatus, err error) {
	err = c.call(ctx, http.MethodGet, "scrub", nil, &st)
	return st, err
}

// StartScrub begins a round of the check.
func (c *Client) StartScrub(ctx context.Context) (s ScrubStarted, err error) {
	err = c.call(ctx, http.MethodPost, "scrub", struct{}{}, &s)
	return s, err
}
