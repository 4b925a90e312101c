package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/berth-registry/berth/deploy"
)

const (
	// maxQueue is how many lines may wait for a client; one that takes so little is as
	// good as gone.
	maxQueue = 4096
	// lineTimeout is how long a client may take for what it is sent.
	lineTimeout = 30 * time.Second
	// pulse is how often a silent stream says that it lives, by an empty line.
	pulse = 15 * time.Second
)

// line is a line of an answer that lasts. One of the three is set.
type line struct {
	Event  *deploy.Event `json:"event,omitempty"`
	Result any           `json:"result,omitempty"`
	Error  *answerError  `json:"error,omitempty"`
}

// stream is an answer that lasts. Events wait in a queue, so that whoever tells them
// waits for no client.
type stream struct {
	w    *response
	rc   *http.ResponseController
	gone context.CancelFunc // the client is, or as good as

	mu     sync.Mutex
	queue  []line
	ended  bool          // nothing comes any more
	signal chan struct{} // there is something in the queue, or it has ended
}

// stream answers with what do tells and returns. An error before the first line is an
// answer like others.
func (x *exchange) stream(do func(ctx context.Context, tell func(deploy.Event)) (any, error)) error {
	ctx, cancel := context.WithCancel(x.r.Context())
	s := &stream{w: x.w, rc: http.NewResponseController(x.w), gone: cancel, signal: make(chan struct{}, 1)}
	var writing sync.WaitGroup
	writing.Go(func() { s.write(ctx) })
	defer func() { // and if do panics
		cancel()
		writing.Wait()
		_ = s.rc.SetWriteDeadline(time.Time{})
	}()
	result, err := do(ctx, s.tell)
	last := line{Result: result}
	if err != nil {
		last = line{Error: toAnswer(err)}
		last.Error.Status = status(err)
	}
	begun := s.end(last)
	writing.Wait()
	if err != nil && begun {
		x.logFailure(err, last.Error.Status)
		return nil
	}
	return err
}

// tell queues an event.
func (s *stream) tell(e deploy.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case len(s.queue) == maxQueue:
		s.ended, s.queue = true, nil
		s.gone()
	default:
		s.queue = append(s.queue, line{Event: &e})
		s.wake()
	}
}

// end queues the last line. If that is an error and the answer has not begun, it does
// not begin, and end returns false.
func (s *stream) end(last line) (begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun = s.w.status != 0 || len(s.queue) > 0
	if begun || last.Error == nil {
		s.queue = append(s.queue, last)
	}
	s.ended = true
	s.wake()
	return begun
}

func (s *stream) wake() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// write sends what is queued until the end, or until the client is gone.
func (s *stream) write(ctx context.Context) {
	alive := time.NewTicker(pulse)
	defer alive.Stop()
	for {
		something := false
		select {
		case <-s.signal:
		case <-alive.C:
			something = true
		case <-ctx.Done():
			return
		}
		text, ended, err := s.take(something)
		if err == nil && len(text) > 0 {
			err = s.send(text)
		}
		if err != nil {
			s.gone()
		}
		if err != nil || ended {
			return
		}
	}
}

// take takes what is queued, or an empty line if something has to be sent, and begins
// the answer with it.
func (s *stream) take(something bool) (text []byte, ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.queue {
		data, err := json.Marshal(l)
		if err != nil {
			return nil, false, err
		}
		text = append(append(text, data...), '\n')
	}
	s.queue = nil
	if something && !s.ended && len(text) == 0 {
		text = []byte{'\n'}
	}
	if len(text) > 0 && s.w.status == 0 {
		s.w.Header()["Content-Type"] = []string{mediaLines}
		s.w.WriteHeader(http.StatusOK)
	}
	return text, s.ended, nil
}

// send sends text at once.
func (s *stream) send(text []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(lineTimeout)) // a recorder in a test has none
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.rc.Flush()
}
