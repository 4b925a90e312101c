package api

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/berth-registry/berth/runner"
)

// What a client says instead of where the context is.
const (
	remoteSession = "client-session" // in its session
	remoteUpload  = "upload-request" // it comes by a request of its own
)

// uploadTimeout is how long the two requests of a build wait for each other.
const uploadTimeout = 5 * time.Second

// uploadFor returns the build that a request brings the context of, if it does.
func uploadFor(buildID string) (id string, ok bool) {
	return strings.CutPrefix(buildID, remoteUpload+":")
}

// uploads are contexts that come by requests of their own: an old client that gets
// one on its standard input sends it so, since the build's own request is busy.
type uploads struct {
	mu    sync.Mutex
	meets map[string]chan *contextUpload // by the build's ID
}

type contextUpload struct {
	body io.ReadCloser
	done chan struct{}
}

// meet is where the requests of one build come together. leave ends it.
func (u *uploads) meet(id string) (c chan *contextUpload, leave func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c = u.meets[id]; c == nil {
		if u.meets == nil {
			u.meets = map[string]chan *contextUpload{}
		}
		c = make(chan *contextUpload)
		u.meets[id] = c
	}
	return c, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.meets[id] == c {
			delete(u.meets, id)
		}
	}
}

// offer brings the context of a build, and returns when the build has done with it.
func (u *uploads) offer(ctx context.Context, id string, body io.ReadCloser) error {
	c, leave := u.meet(id)
	defer leave()
	up := &contextUpload{body: body, done: make(chan struct{})}
	wait, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	select {
	case c <- up:
	case <-wait.Done():
		return runner.Errorf(runner.ErrNotFound, "no build %q waits for its context: %w", id, wait.Err())
	}
	// The body is the server's: it must not go while somebody reads it.
	<-up.done
	return nil
}

// await waits for the context of a build. done must be called when it is no longer
// read.
func (u *uploads) await(ctx context.Context, id string) (body io.Reader, done func(), err error) {
	c, leave := u.meet(id)
	defer leave()
	wait, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	select {
	case up := <-c:
		return up.body, func() { close(up.done) }, nil
	case <-wait.Done():
		return nil, nil, runner.Errorf(runner.ErrInvalid, "the context of build %q did not come: %w", id, wait.Err())
	}
}
