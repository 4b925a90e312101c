package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// job brings one blob to the registry.
type job struct {
	ps   *pusher
	desc ocispec.Descriptor
	id   string   // in messages; empty for none
	from []string // repositories that may have it
	last time.Time
}

func (j *job) say(status string) {
	if j.id != "" {
		j.ps.say(j.id, status)
	}
}

// sent tells how much of the blob the registry has got, now and then.
func (j *job) sent(n int64) {
	if now := time.Now(); j.id != "" && (n == j.desc.Size || now.Sub(j.last) >= progressEvery) {
		j.last = now
		j.ps.send(jsonstream.Message{ID: j.id, Status: "Pushing", Progress: &jsonstream.Progress{Current: n, Total: j.desc.Size}})
	}
}

func (j *job) run(ctx context.Context) error {
	u := &upload{s: j.ps.s, path: j.ps.path, desc: j.desc, sent: j.sent}
	u.source = func(off int64) (io.ReadCloser, error) {
		r, err := j.ps.src.Open(ctx, j.desc)
		if err != nil {
			return nil, err
		}
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			r.Close()
			return nil, err
		}
		return r, nil
	}
	for n := 1; ; n++ {
		status, err := j.try(ctx, u)
		if err == nil {
			j.say(status)
			return nil
		}
		if n == maxAttempts || ctx.Err() != nil || !again(err) {
			return err
		}
		switch s := int(pause(n, err).Round(time.Second).Seconds()); {
		case s > 1:
			j.say(fmt.Sprintf("Retrying in %d seconds", s))
		default:
			j.say("Retrying in 1 second")
		}
		if err := wait(ctx, n, err); err != nil {
			return err
		}
		u.recover(ctx)
	}
}

// try makes sure that the registry has the blob, and says how it came to it.
func (j *job) try(ctx context.Context, u *upload) (string, error) {
	if u.location != nil {
		return "Pushed", u.finish(ctx)
	}
	exists, err := u.exists(ctx)
	if err != nil {
		return "", err
	}
	if exists {
		return "Layer already exists", nil
	}
	if from := u.mount(ctx, j.from[:min(len(j.from), maxMounts)]); from != "" {
		return "Mounted from " + from, nil
	}
	if u.location == nil {
		if _, err := u.begin(ctx, ""); err != nil {
			return "", err
		}
	}
	return "Pushed", u.finish(ctx)
}

// again says whether an upload that failed is worth another attempt.
func again(err error) bool {
	if _, ok := errors.AsType[sourceError](err); ok {
		return false
	}
	// A session that the registry has lost can be begun anew.
	return passing(err) || isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusRequestedRangeNotSatisfiable)
}
