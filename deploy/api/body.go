package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-registry/berth/runner"
)

const (
	// smallBody is what a body may have without waiting for one of largeBodies places:
	// read and decoded, a larger one takes several times its size.
	smallBody   = 1 << 20
	largeBodies = 1
	// bodyTimeout is how long a client may take for its body.
	bodyTimeout = time.Minute
)

// body reads a request's JSON into v, strictly: there is nothing in it that v does not
// have, and nothing behind it.
func (x *exchange) body(v any) error {
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a recorder in a test has none
	raw, done, err := x.readBody()
	defer done()
	// The deadline must not end what comes after: the server watches the connection
	// for the client's leaving.
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("there is none")
		}
		if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return runner.Errorf(runner.ErrInvalid, "this berth-runner does not know %s: it is older than the command, or it is a mistake", field)
		}
		return runner.Errorf(runner.ErrInvalid, "invalid JSON in the request body: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return runner.Errorf(runner.ErrInvalid, "invalid JSON in the request body: there is something behind it")
	}
	return nil
}

// readBody reads the body. A large one waits for a place until done is called, or is
// refused.
func (x *exchange) readBody() (raw []byte, done func(), err error) {
	done = func() {}
	if x.r.ContentLength > MaxBody {
		return nil, done, errTooLarge()
	}
	raw, err = io.ReadAll(io.LimitReader(x.r.Body, smallBody))
	if err != nil {
		return nil, done, errBody(err)
	}
	if len(raw) < smallBody {
		return raw, done, nil
	}
	select {
	case x.large <- struct{}{}:
		done = func() { <-x.large }
	case <-time.After(bodyTimeout / 2):
		return nil, done, runner.Errorf(runner.ErrUnavailable, "there are too many large requests at once: try again later")
	case <-x.r.Context().Done():
		return nil, done, x.r.Context().Err()
	}
	b := bytes.NewBuffer(raw)
	if n := x.r.ContentLength - int64(len(raw)); n > 0 {
		b.Grow(int(n))
	}
	if _, err := b.ReadFrom(io.LimitReader(x.r.Body, MaxBody-smallBody+1)); err != nil {
		return nil, done, errBody(err)
	}
	if b.Len() > MaxBody {
		return nil, done, errTooLarge()
	}
	return b.Bytes(), done, nil
}

func errBody(err error) error {
	return runner.Errorf(runner.ErrInvalid, "reading the request body: %w", err)
}

func errTooLarge() error {
	return runner.Errorf(errdefs.ErrResourceExhausted,
		"the stack is larger than %d MiB with the contents of its configs and secrets", MaxBody>>20)
}

// isSet reads a boolean of the query.
func (x *exchange) isSet(key string) (bool, error) {
	s := x.r.URL.Query().Get(key)
	if s == "" {
		return false, nil
	}
	set, err := strconv.ParseBool(s)
	if err != nil {
		return false, runner.Errorf(runner.ErrInvalid, "invalid value for %s: %q: want 1 or 0", key, s)
	}
	return set, nil
}

// splitLast splits a path at its last slash.
func splitLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i+1], path[i+1:]
}
