package runner

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/jsonstream"
)

// Streams are the client's ends of an attachment; nil is not attached. With a
// terminal all output goes to Stdout.
//
// The end of Stdin closes the container's standard input where the container was
// made so (StdinOnce) and always that of an exec. An error of Stdin ends the
// attachment: so a client detaches.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Stream is output that is ready to flow: the engine has found the container and
// registered the client, so nothing written from now on is missed.
type Stream struct {
	TTY bool // raw bytes; otherwise stdcopy frames carry which stream it is
	// Copy carries the streams until the process or the client ends, or ctx is
	// done. It must be called once, or Close.
	Copy func(ctx context.Context, s Streams) error
	// Close gives up a Stream that is not copied.
	Close func()
}

// Progress receives the messages of a long operation, one after the other.
// Sending to a client that is gone does nothing.
type Progress func(jsonstream.Message)

// Status sends a line of text, of one object if id is not empty.
func (p Progress) Status(id, status string) {
	if p != nil {
		p(jsonstream.Message{ID: id, Status: status})
	}
}
