package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/berth-registry/berth/registry"
)

const (
	// beat is how long a long answer says nothing at most: it has an empty line then.
	beat = 15 * time.Second
	// lineTime is how long a client may take to read a line.
	lineTime = time.Minute
	// maxLine is the greatest length of a line in bytes.
	maxLine = 1 << 20
)

// ErrCutOff says that a long answer has not come to its end.
var ErrCutOff = errors.New("the server's answer has no end: it was cut off")

// lastLine ends a long answer that has gone well.
type lastLine struct {
	End bool `json:"end"`
}

// stream answers with what fn sends: a line of JSON each, at once, and a last line
// that says that this is the end, or what went wrong. A client that takes too long to
// read ends it. Until something is sent, an error is answered as any other is.
func (c *call) stream(fn func(ctx context.Context, send func(v any) error) error) (status int, body any, err error) {
	// What may be read next is the end of the connection alone, however long it takes.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // an answer in this process has none
	ctx, cancel := context.WithCancel(c.r.Context())
	s := &lines{w: c.w, control: http.NewResponseController(c.w)}
	var beating sync.WaitGroup
	beating.Go(func() { s.beat(ctx) })
	err = fn(ctx, s.send)
	cancel()
	beating.Wait()
	if err == nil {
		err = s.send(lastLine{true})
	}
	c.streamed = s.begun
	if s.failed {
		err = registry.ErrUnavailable.With("the client reads no more")
	}
	return http.StatusOK, nil, err
}

// steps answers with what run tells, as stream does. A client that does not read ends
// what runs, by its context, and that is the error then.
func steps[S any](c *call, run func(ctx context.Context, tell func(S) error) error) (status int, body any, err error) {
	return c.stream(func(ctx context.Context, send func(any) error) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		err := run(ctx, func(step S) error {
			err := send(step)
			if err != nil {
				cancel(err)
			}
			return err
		})
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		return err
	})
}

// lines writes lines.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	failed  bool // a line could not be written
}

func (s *lines) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(append(data, '\n'))
}

func (s *lines) write(line []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.begun = true
	}
	err := s.control.SetWriteDeadline(time.Now().Add(lineTime))
	if err == nil || errors.Is(err, http.ErrNotSupported) {
		_, err = s.w.Write(line)
	}
	if err == nil {
		err = s.control.Flush()
	}
	s.failed = s.failed || err != nil
	return err
}

// beat writes an empty line now and then, so that what is between here and the
// client does not take the connection for dead.
func (s *lines) beat(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if s.write([]byte("\n")) != nil {
				return // the next line says so to whom it concerns
			}
		}
	}
}

// stream calls a route that answers with lines, and each with each of them.
func (c *Client) stream(ctx context.Context, method, path string, each func(line []byte) error) error {
	return c.streamWith(ctx, method, path, nil, each)
}

// streamWith is stream for a request with a body, unless in is nil.
func (c *Client) streamWith(ctx context.Context, method, path string, in any, each func(line []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(Patience, func() { cancel(fmt.Errorf("the server has said nothing for %s", Patience)) })
	defer silent.Stop()
	err := c.readLines(ctx, method, path, in, func(line []byte) (bool, error) {
		silent.Reset(Patience)
		return readLine(line, each)
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) readLines(ctx context.Context, method, path string, in any, each func(line []byte) (end bool, err error)) error {
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := c.do.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return readError(resp)
	}
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if end, err := each(bytes.TrimSpace(s.Bytes())); end || err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrCutOff, err)
	}
	return ErrCutOff
}

// readLine reads a line of an answer, unless it is one that only shows that the
// server lives.
func readLine(line []byte, each func([]byte) error) (end bool, err error) {
	if len(line) == 0 {
		return false, nil
	}
	var last struct {
		lastLine
		errorList
	}
	if err := json.Unmarshal(line, &last); err != nil {
		return false, fmt.Errorf("the server's answer: %w", err)
	}
	if len(last.Errors) > 0 {
		return true, last.Errors[0].asError(0)
	}
	if last.End {
		return true, nil
	}
	return false, each(line)
}
