package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"
)

const maxOffset = math.MaxInt64

// lookback is how far before the last lines the beginning of one is looked for
// that came in pieces, with lines of the other stream between them.
const lookback = 256 << 10

// tail looks for where the last lines begin, from the end.
type tail struct {
	out  *output
	left int // lines to be found

	// open says that a line was found of which an earlier piece may come.
	open [streams]bool
	// begin is where the first line that counts begins, by stream.
	begin [streams]place
	// since is how many bytes were looked at since the last line was found.
	since int64
}

// place is an offset in one of the files.
type place struct {
	file   int
	offset int64
}

// seekTail skips all but the last n lines of what is open.
func (r *reader) seekTail(ctx context.Context, n int) error {
	t := &tail{out: r.out, left: n}
	for s := range t.begin {
		t.begin[s] = place{len(r.files), 0} // nothing of it yet
	}
	for i := range slices.Backward(r.files) {
		if err := r.files[i].use(); err != nil {
			return err
		}
		more, err := t.file(ctx, i, r.files[i].f, r.files[i].size())
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	return r.skipTo(t.begin)
}

// skipTo drops the files before the places where the streams begin.
func (r *reader) skipTo(begin [streams]place) error {
	last := len(r.files) - 1
	if last < 0 {
		return nil
	}
	for s := range begin {
		if begin[s].file > last { // what is written later counts
			begin[s] = place{last, r.files[last].size()}
		}
	}
	first := begin[stdout]
	if b := begin[stderr]; b.file < first.file || b.file == first.file && b.offset < first.offset {
		first = b
	}
	if err := r.files[first.file].use(); err != nil {
		return err
	}
	if _, err := r.files[first.file].f.Seek(first.offset, io.SeekStart); err != nil {
		return err
	}
	r.drop(first.file)
	for s := range begin {
		begin[s].file -= first.file
	}
	r.begin = begin
	return nil
}

// drop leaves the first n files out.
func (r *reader) drop(n int) {
	for _, f := range r.files[:n] {
		f.f.Close()
	}
	r.files = r.files[n:]
}

// from returns where the lines of each stream begin to count in a file of those
// that were there.
func (r *reader) from(index int) (from [streams]int64) {
	for s, b := range r.begin {
		switch {
		case b.file > index:
			from[s] = maxOffset
		case b.file == index:
			from[s] = b.offset
		}
	}
	return from
}

// seekSince leaves out the files that end before a time.
func (r *reader) seekSince(since time.Time) error {
	var buf [maxHeader]byte
	for i := len(r.files) - 1; i > 0; i-- {
		if err := r.files[i].use(); err != nil {
			return err
		}
		n, err := r.files[i].f.ReadAt(buf[:], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		h, _, ok, _ := parseHeader(buf[:n])
		if !ok {
			continue
		}
		if at, ok := parseTime(h.time); ok && at.Before(since) {
			r.drop(i)
			return nil
		}
	}
	return nil
}

// file looks at a file from its end. It says whether the one before matters.
func (t *tail) file(ctx context.Context, index int, f *os.File, size int64) (more bool, err error) {
	buf := make([]byte, bufferSize)
	end := size // of the line that is looked for next
	for at := size; at > 0; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(at, int64(len(buf)))
		at -= n
		block := buf[:n]
		if _, err := f.ReadAt(block, at); err != nil {
			return false, err
		}
		for pos := len(block); ; {
			// The line that begins after the newline before pos.
			if pos = bytes.LastIndexByte(block[:pos], '\n'); pos < 0 {
				break
			}
			start := at + int64(pos) + 1
			if more, err := t.line(index, f, start, end); err != nil || !more {
				return false, err
			}
			end = start
		}
	}
	return t.line(index, f, 0, end)
}

// line looks at the line from start to end.
func (t *tail) line(index int, f *os.File, start, end int64) (more bool, err error) {
	if start == end {
		return true, nil
	}
	var buf [maxHeader]byte
	n, err := f.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
	if err != nil && n == 0 {
		return false, err
	}
	t.since += end - start
	h, _, ok, _ := parseHeader(buf[:n])
	if !ok || !t.out.wanted[h.stream] {
		return t.goOn(), nil
	}
	if h.partial && t.open[h.stream] { // a piece of the line that was found
		t.begin[h.stream] = place{index, start}
		return true, nil
	}
	t.open[h.stream] = false
	if t.left == 0 {
		return t.goOn(), nil
	}
	t.left--
	t.since = 0
	t.open[h.stream] = true
	t.begin[h.stream] = place{index, start}
	return true, nil
}

// goOn says whether lines before matter.
func (t *tail) goOn() bool {
	return t.left > 0 || (t.open[stdout] || t.open[stderr]) && t.since < lookback
}

// descriptor is a path of an open file.
func descriptor(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
