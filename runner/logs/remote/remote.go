package remote

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// The drivers, by Docker's names.
const (
	Fluentd  = "fluentd"
	Journald = "journald"
	Syslog   = "syslog"
)

// Drivers are all that Parse knows.
func Drivers() []string { return []string{Fluentd, Journald, Syslog} }

// Source is a container, as the entries that it has written are marked.
type Source struct {
	ID    string // of 64 digits
	Name  string // without a slash
	Image string // its name
	Tag   string
	Attrs map[string]string // labels and variables that were asked for
}

// short is the ID as users see it.
func (s Source) short() string { return s.ID[:min(len(s.ID), 12)] }

// Entry is a line that a container has written, or a piece of a long one.
type Entry struct {
	Time   time.Time
	Stderr bool
	Line   []byte // without its end
	Piece  *Piece // nil for a whole line
}

// Piece tells which part of a line an entry is.
type Piece struct {
	ID      string // of the line
	Ordinal int    // from 1
	Last    bool
}

// Destination is a server that takes entries. Its methods may be called at the
// same time, Send only by one at a time.
type Destination interface {
	// Open connects, unless it is connected. Its error is what Docker says when a
	// container cannot start for it.
	Open(ctx context.Context) error
	// Send delivers entries of one source in their order, over a new connection if
	// need be. It waits as long as the server takes nothing and the connection
	// lives. After an error any of them may have arrived.
	Send(ctx context.Context, src Source, entries []Entry) error
	// Close ends the connection. What Send delivered goes on its way.
	Close()
}

// ErrLost is that nothing was sent since a connection broke, of which Lost was told
// before.
var ErrLost = errors.New("the connection to the log server broke")

// Lost is told that a connection broke at a time, without its Destination's doing.
// Unread says that the other host had bytes that the server had not read; if not,
// the server had read all, but need not have stored the last of it.
type Lost func(at time.Time, unread bool)

// Settings are what one driver was asked for, checked.
type Settings struct {
	Driver string
	// Key is the same for settings that mean the same Destination.
	Key string
	// Async says that a container may start though the server does not answer.
	Async bool
	// RetryWait is how long to wait between two tries; 0 leaves it to the caller.
	RetryWait time.Duration
	// MaxRetries is after how many tries entries are given up; negative is never.
	MaxRetries int64
	// Lossy says that what Send has delivered may be lost with the connection,
	// which Lost is told.
	Lossy bool
	// BufferLimit is how many bytes may wait to be sent; 0 leaves it to the caller.
	BufferLimit int64

	connect func(lost Lost) (Destination, error)
}

// New makes the Destination, which is not connected yet. It fails if files that
// the options name cannot be read. lost is called by other goroutines.
func (s Settings) New(lost Lost) (Destination, error) { return s.connect(lost) }

// Parse checks the options of a driver. Errors have Docker's texts. It asks
// nobody: a name that cannot be resolved is found by Open.
func Parse(driver string, options map[string]string) (Settings, error) {
	s := Settings{Driver: driver, Key: key(driver, options), MaxRetries: -1}
	var err error
	switch driver {
	case Journald:
		err = parseJournald(&s, options)
	case Syslog:
		err = parseSyslog(&s, options)
	default:
		err = parseFluentd(&s, options)
	}
	return s, err
}

func key(driver string, options map[string]string) string {
	var b strings.Builder
	b.WriteString(driver)
	for _, name := range slices.Sorted(maps.Keys(options)) {
		b.WriteString("\x00" + name + "\x00" + options[name])
	}
	return b.String()
}
