package logs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/berth-registry/berth/runner"
)

// Copy writes the log in dir to the streams, byte for byte as it was written by
// the container; with tty, all of it to Stdout. A stream that is nil is as one
// that is not asked for.
//
// The last lines that o.Tail asks for are those of the streams that are asked for.
// Timestamps, in UTC, and details stand before each line, also if it was written
// in pieces. o.Since and o.Until are compared with the time of a line's first
// piece, and both may be equal to it.
//
// With o.Follow, it goes on with what is written until ended is closed and all is
// read, o.Until has come, or the log is removed. Without, it ends with what was
// written when it began. The end of ctx is an error, as is one of the streams.
//
// Of a log it holds 64 KiB in memory, whatever is in it; a compressed file is
// unpacked on the disk while it is read. It can be called whether
// a monitor writes, a Keeper keeps the log, or neither.
func Copy(ctx context.Context, dir string, o runner.LogOptions, attrs map[string]string, ended <-chan struct{}, tty bool, s runner.Streams) error {
	out := newOutput(o, attrs, tty, s)
	if !out.wanted[stdout] && !out.wanted[stderr] {
		return nil
	}
	r, err := openLog(dir, out)
	if err != nil {
		return err
	}
	defer r.close()
	switch {
	case o.Tail >= 0:
		err = r.seekTail(ctx, o.Tail)
	case !o.Since.IsZero():
		err = r.seekSince(o.Since)
	}
	if err != nil {
		return err
	}
	err = r.copyAll(ctx)
	if err == nil && o.Follow {
		err = r.follow(ctx, o.Until, ended)
	}
	if errors.Is(err, errPast) {
		err = nil
	}
	return errors.Join(err, out.flush())
}

// errPast says that all that follows is later than what is asked for.
var errPast = errors.New("past the end")

// reader reads the files of a log one after the other.
type reader struct {
	dir    string
	out    *output
	parser parser
	buf    []byte

	files []opened // what is still to be read of those that were there
	// begin is where a tail begins, by stream.
	begin [streams]place
	// The file that is read.
	f      *os.File
	number int64
	// end is where reading it stops.
	end int64
}

// opened is a file of a log that is open; a compressed one is not unpacked until
// it is used.
type opened struct {
	file
	f *os.File
}

// use unpacks the file.
func (o *opened) use() error {
	if !o.packed {
		return nil
	}
	f, length, err := unpack(o.f)
	if err != nil {
		return err
	}
	o.f.Close()
	o.f, o.packed, o.length = f, false, length
	o.info, err = f.Stat()
	return err
}

// bufferSize is how much is read at once.
const bufferSize = 64 << 10

// openLog opens all files that are there, so that a Keeper that removes some does
// not take them away.
func openLog(dir string, out *output) (*reader, error) {
	r := &reader{dir: dir, out: out, buf: make([]byte, bufferSize)}
	r.parser.sink = out
	var err error
	for range scans {
		if err = r.openFiles(); err == nil {
			return r, nil
		}
		r.close()
		if !errors.Is(err, errChanged) {
			return nil, err
		}
	}
	return nil, err
}

// errChanged says that files changed while they were opened.
var errChanged = runner.Errorf(runner.ErrUnavailable, "the log changes too fast to be opened")

// openFiles opens the files of a log, none if there is no log yet.
func (r *reader) openFiles() error {
	s, err := scan(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range s.all() {
		open, err := os.Open(s.path(f.name))
		if errors.Is(err, fs.ErrNotExist) {
			return errChanged
		}
		if err != nil {
			return err
		}
		r.files = append(r.files, opened{f, open})
		info, err := open.Stat()
		if err != nil {
			return err
		}
		if !os.SameFile(info, f.info) {
			return errChanged
		}
		r.files[len(r.files)-1].info = info
	}
	return nil
}

func (r *reader) close() {
	for _, f := range r.files {
		f.f.Close()
	}
	r.files = nil
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// copyAll copies the files that are open, up to where they ended then. The last
// one stays open.
func (r *reader) copyAll(ctx context.Context) error {
	for i := 0; len(r.files) > 0; i++ {
		if err := r.files[0].use(); err != nil {
			return err
		}
		f := r.files[0]
		r.files = r.files[1:]
		r.enter(f.f, f.number)
		r.out.from = r.from(i)
		if len(r.files) == 0 {
			r.end = f.size() // only a follower reads on
		}
		if err := r.copyFile(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enter goes on to a file.
func (r *reader) enter(f *os.File, number int64) {
	if r.f != nil {
		r.f.Close()
	}
	r.f, r.number, r.end = f, number, maxOffset
	r.out.from = [streams]int64{}
	at, err := f.Seek(0, io.SeekCurrent) // a tail may begin in its midst
	if err != nil {
		at = 0
	}
	r.parser.reset(at)
}

// copyFile copies the rest of the file.
func (r *reader) copyFile(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		room := min(int64(len(r.buf)), r.end-r.parser.offset)
		if room <= 0 {
			return nil
		}
		n, err := r.f.Read(r.buf[:room])
		if werr := r.parser.write(r.buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// untilTimer is for the end of following; it never fires without one.
func untilTimer(until time.Time) *time.Timer {
	if until.IsZero() {
		return time.NewTimer(math.MaxInt64)
	}
	return time.NewTimer(time.Until(until))
}
