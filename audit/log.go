package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// LogOptions are what a Log can be told.
type LogOptions struct {
	// Output is where lines go: "stdout", "stderr", a file by its path, or empty for
	// nowhere. A missing file is made, with mode 0600, and so is its directory.
	Output string
	// MaxSize is how large a file may become in bytes before it is put aside under
	// a name that ends with the time; 100 MB if it is 0, and never if negative.
	MaxSize int64
	// Keep is how many files that were put aside are kept; 10 if it is 0.
	Keep int
	// Instance is in each line: which of several servers, each with a log of its own, has
	// written it. A server that begins again may have another one. Empty if there is one
	// server.
	Instance string
	// Stdout and Stderr are the program's own if they are nil. A reader that does
	// not take what is written there holds up the requests that write.
	Stdout, Stderr io.Writer
	// Log is told what goes wrong, with the line that was to be written.
	Log *slog.Logger
}

const (
	defaultMaxSize = 100 << 20
	defaultKeep    = 10
)

// Log writes a line of JSON for each event. Each line is one write, so that lines
// do not mix with those of others who append to the same file or pipe; if a line
// could be written in part only, the next one starts on a line of its own.
//
// It is a Recorder. Its methods may be called concurrently.
type Log struct {
	log      *slog.Logger
	instance string
	off      bool
	failures atomic.Int64

	mu  sync.Mutex
	out lineWriter // nil if off
}

// lineWriter is where lines go.
type lineWriter interface {
	// write writes a line. trouble did not keep it from being written.
	write(line []byte) (trouble, err error)
	reopen() error
	close() error
}

var _ Recorder = (*Log)(nil)

// NewLog opens a log.
func NewLog(o LogOptions) (*Log, error) {
	l := &Log{log: o.Log, instance: o.Instance}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	switch o.Output {
	case "":
		l.off = true
	case "stdout":
		l.out = &stream{w: orFile(o.Stdout, os.Stdout)}
	case "stderr":
		l.out = &stream{w: orFile(o.Stderr, os.Stderr)}
	default:
		f, err := openRotated(o)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		l.out = f
	}
	return l, nil
}

func orFile(w io.Writer, f *os.File) io.Writer {
	if w == nil {
		return f
	}
	return w
}

// Record writes a line. If it cannot, that is logged as an error and counted:
// whoever did what the event tells has done it, and is not told of a failure.
// Events of pulls are not written.
func (l *Log) Record(ctx context.Context, e Event) {
	if l.off || e.Kind == Pull {
		return
	}
	e = e.complete(ctx, time.Now)
	line, err := encode(&e, l.instance)
	if err != nil {
		l.failed(ctx, err, e.Kind, nil)
		return
	}
	l.mu.Lock()
	trouble, err := l.out.write(line)
	l.mu.Unlock()
	if err != nil {
		l.failed(ctx, err, e.Kind, line)
	}
	if trouble != nil {
		l.log.ErrorContext(ctx, "the audit log could not be rotated", "error", trouble)
	}
}

func (l *Log) failed(ctx context.Context, err error, k Kind, line []byte) {
	l.failures.Add(1)
	l.log.ErrorContext(ctx, "an event is missing in the audit log", "error", err, "event", string(k), "line", string(line))
}

// Failures returns how many lines could not be written.
func (l *Log) Failures() int64 { return l.failures.Load() }

// Reopen opens the file anew, after another program has moved it away. If it
// cannot, lines go on to where they went before.
func (l *Log) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off {
		return nil
	}
	if err := l.out.reopen(); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// Close closes the file. Events that come later are failures.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off {
		return nil
	}
	err := l.out.close()
	l.out = closed{}
	return err
}

// stream is standard output, which is not this package's to close.
type stream struct {
	w    io.Writer
	torn bool // what was written last is no whole line
}

func (s *stream) write(line []byte) (trouble, err error) {
	if s.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := s.w.Write(line)
	if n > 0 {
		s.torn = n < len(line)
	}
	return nil, err
}

func (*stream) reopen() error { return nil }
func (*stream) close() error  { return nil }

// closed is where lines go after Close.
type closed struct{}

var errClosed = errors.New("the audit log is closed")

func (closed) write([]byte) (trouble, err error) { return nil, errClosed }
func (closed) reopen() error                     { return errClosed }
func (closed) close() error                      { return nil }
