package telemetry

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/registry"
)

// AccessLog writes a record of every request to a log.
type AccessLog struct {
	log  *slog.Logger
	json io.Writer
	off  atomic.Bool
}

// NewAccessLog makes an access log that writes to log or, if json is not nil, to
// that in the form of slog's JSON handler, but faster: every request pays for it.
func NewAccessLog(log *slog.Logger, json io.Writer) *AccessLog {
	return &AccessLog{log: log, json: json}
}

// SetEnabled turns the log on, as it is at first, or off.
func (a *AccessLog) SetEnabled(on bool) { a.off.Store(!on) }

// Observe logs a request of an account, or of nobody.
func (a *AccessLog) Observe(r registry.Record, account string) {
	ctx := context.Background()
	if a.off.Load() || !a.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	if a.json != nil {
		line := lines.Get().(*[]byte)
		*line = appendRecord((*line)[:0], time.Now(), r, account)
		_, _ = a.json.Write(*line) // a log that cannot be written has nowhere to say so
		lines.Put(line)
		return
	}
	attrs := []slog.Attr{
		slog.String("id", r.ID), slog.String("client", r.Client), slog.String("method", r.Method), slog.String("path", r.Path),
		slog.String("repository", r.Repo), slog.String("action", r.Action), slog.Int("status", r.Status),
		slog.Int64("in", r.In), slog.Int64("out", r.Out), slog.Float64("seconds", r.Duration.Seconds()),
	}
	if account != "" {
		attrs = append(attrs, slog.String("account", account))
	}
	if r.Err != nil {
		attrs = append(attrs, slog.String("error", r.Err.Error()))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "request", attrs...)
}

var lines = sync.Pool{New: func() any { return new([]byte) }}

// appendRecord appends a record as a line of JSON.
func appendRecord(b []byte, now time.Time, r registry.Record, account string) []byte {
	b = append(append(b, `{"time":"`...), second(now)...)
	b = append(b, '.', byte('0'+now.Nanosecond()/1e8), byte('0'+now.Nanosecond()/1e7%10), byte('0'+now.Nanosecond()/1e6%10))
	b = append(b, `Z","level":"INFO","msg":"request"`...)
	for _, f := range [...]struct{ name, value string }{
		{"id", r.ID}, {"client", r.Client}, {"method", r.Method}, {"path", r.Path}, {"repository", r.Repo}, {"action", r.Action},
	} {
		b = appendString(b, f.name, f.value)
	}
	b = strconv.AppendInt(append(b, `,"status":`...), int64(r.Status), 10)
	b = strconv.AppendInt(append(b, `,"in":`...), r.In, 10)
	b = strconv.AppendInt(append(b, `,"out":`...), r.Out, 10)
	b = strconv.AppendFloat(append(b, `,"seconds":`...), r.Duration.Seconds(), 'f', 6, 64)
	if account != "" {
		b = appendString(b, "account", account)
	}
	if r.Err != nil {
		b = appendString(b, "error", r.Err.Error())
	}
	return append(b, "}\n"...)
}

// lastSecond is the second that was written last.
var lastSecond atomic.Pointer[writtenSecond]

type writtenSecond struct {
	unix int64
	text string
}

// second writes a time to the second: the same for thousands of requests.
func second(t time.Time) string {
	last := lastSecond.Load()
	if last == nil || last.unix != t.Unix() {
		last = &writtenSecond{t.Unix(), t.UTC().Format("2006-01-02T15:04:05")}
		lastSecond.Store(last)
	}
	return last.text
}

// appendString appends a field whose value may be anything that a client sent.
func appendString(b []byte, name, value string) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(value)
			if err != nil {
				return append(b, `""`...) // a string can always be encoded
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), value...), '"')
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
