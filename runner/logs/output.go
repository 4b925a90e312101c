package logs

import (
	"io"
	"time"

	"github.com/berth-registry/berth/runner"
)

// stampLayout is how Docker shows times: always with nine digits.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// output writes the lines that are asked for to the streams.
type output struct {
	writers [streams]io.Writer
	wanted  [streams]bool
	since   time.Time
	until   time.Time
	stamps  bool
	details []byte

	// from is where lines count in the file that is read, by stream: a tail does
	// not begin at the same line in both.
	from [streams]int64

	// The line of each stream that is open.
	open   [streams]bool
	hidden [streams]bool
	now    header // the line of the file
	skip   bool   // which is not asked for

	lastText string // the time that was parsed last, which often is the next one too
	last     time.Time
	stamp    []byte // of it

	buf []byte
	to  stream // of what is in buf
}

func newOutput(o runner.LogOptions, attrs map[string]string, tty bool, s runner.Streams) *output {
	out := &output{
		writers: [streams]io.Writer{s.Stdout, s.Stderr},
		since:   o.Since,
		until:   o.Until,
		stamps:  o.Timestamps,
		buf:     make([]byte, 0, bufferSize),
	}
	if tty {
		out.writers[stderr] = s.Stdout
	}
	out.wanted[stdout] = o.Stdout && out.writers[stdout] != nil
	out.wanted[stderr] = o.Stderr && out.writers[stderr] != nil
	if o.Details {
		out.details = []byte(details(attrs))
	}
	return out
}

// begin implements sink.
func (o *output) begin(h header, offset int64) error {
	o.now = h
	o.skip = !o.wanted[h.stream] || offset < o.from[h.stream]
	if o.skip {
		return nil
	}
	if o.open[h.stream] {
		o.skip = o.hidden[h.stream]
		return nil
	}
	o.open[h.stream], o.hidden[h.stream] = true, false
	if !o.stamps && o.since.IsZero() && o.until.IsZero() {
		return o.write(h.stream, o.details)
	}
	at, ok := o.time(h.time)
	switch {
	case ok && !o.until.IsZero() && at.After(o.until):
		return errPast
	case ok && !o.since.IsZero() && at.Before(o.since):
		o.skip, o.hidden[h.stream] = true, true
		return nil
	case ok && o.stamps:
		if err := o.write(h.stream, o.stamp); err != nil {
			return err
		}
	}
	return o.write(h.stream, o.details)
}

// time parses the time of a header.
func (o *output) time(text []byte) (time.Time, bool) {
	if string(text) == o.lastText {
		return o.last, true
	}
	at, ok := parseTime(text)
	if ok {
		o.lastText, o.last = string(text), at
		o.stamp = append(at.UTC().AppendFormat(o.stamp[:0], stampLayout), ' ')
	}
	return at, ok
}

// content implements sink.
func (o *output) content(p []byte) error {
	if o.skip {
		return nil
	}
	return o.write(o.now.stream, p)
}

var newline = []byte{'\n'}

// end implements sink.
func (o *output) end() error {
	if o.now.partial {
		return nil
	}
	if o.wanted[o.now.stream] {
		o.open[o.now.stream] = false
	}
	if o.skip {
		return nil
	}
	return o.write(o.now.stream, newline)
}

// write collects bytes for a stream. The order of bytes of different streams
// stays.
func (o *output) write(s stream, p []byte) error {
	if s != o.to {
		if err := o.flush(); err != nil {
			return err
		}
		o.to = s
	}
	for len(o.buf)+len(p) > cap(o.buf) {
		n := cap(o.buf) - len(o.buf)
		o.buf = append(o.buf, p[:n]...)
		p = p[n:]
		if err := o.flush(); err != nil {
			return err
		}
	}
	o.buf = append(o.buf, p...)
	return nil
}

// flush writes what was collected.
func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	_, err := o.writers[o.to].Write(o.buf)
	o.buf = o.buf[:0]
	return err
}
