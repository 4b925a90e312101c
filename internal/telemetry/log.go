package telemetry

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/registry"
)

// AccessLog writes a record of every request to a log.
type AccessLog struct {
	log *slog.Logger
	off atomic.Bool
}

// NewAccessLog makes an access log that writes to log.
func NewAccessLog(log *slog.Logger) *AccessLog { return &AccessLog{log: log} }

// SetEnabled turns the log on, as it is at first, or off.
func (a *AccessLog) SetEnabled(on bool) { a.off.Store(!on) }

// Observe logs a request.
func (a *AccessLog) Observe(r registry.Record) {
	ctx := context.Background()
	if a.off.Load() || !a.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", r.ID), slog.String("client", r.Client), slog.String("method", r.Method), slog.String("path", r.Path),
		slog.String("repository", r.Repo), slog.String("action", r.Action), slog.Int("status", r.Status),
		slog.Int64("in", r.In), slog.Int64("out", r.Out), slog.Float64("seconds", r.Duration.Seconds()),
	}
	if r.Err != nil {
		attrs = append(attrs, slog.String("error", r.Err.Error()))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "request", attrs...)
}

const (
	// logBuffer is how many bytes of log are written at once.
	logBuffer = 16 << 10
	// logDelay is how long a line waits in the buffer at most.
	logDelay = 100 * time.Millisecond
)

// Buffer gathers lines of a log, so that a busy server does not make a system
// call for each. A line is written within a tenth of a second, or at Flush.
type Buffer struct {
	mu      sync.Mutex
	w       *bufio.Writer
	waiting bool // a flush is on its way
}

// NewBuffer makes a buffer before w.
func NewBuffer(w io.Writer) *Buffer { return &Buffer{w: bufio.NewWriterSize(w, logBuffer)} }

// Write takes a line.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.waiting {
		b.waiting = true
		time.AfterFunc(logDelay, func() { _ = b.Flush() })
	}
	return b.w.Write(p)
}

// Flush writes what is in the buffer.
func (b *Buffer) Flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = false
	return b.w.Flush()
}
