package logs

import (
	"bytes"
	"time"
)

// stream is one of a container's outputs.
type stream int

const (
	stdout stream = iota
	stderr
	streams // how many there are
)

// header is what stands before the output in a line of the file.
type header struct {
	time    []byte // RFC 3339, as it stands there; valid until more is parsed
	stream  stream
	partial bool // the output goes on in another line of the file
}

// maxHeader is longer than every header: a time with nanoseconds and offset, the
// name of a stream and the tag, with a space after each.
const maxHeader = 64

// parseHeader takes the header off a line of the file. It is false if there is
// none: whole is then true if no further byte could make it one.
func parseHeader(line []byte) (h header, rest []byte, ok, whole bool) {
	at, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(at) < len("2006-01-02T15:04:05Z") {
		return h, nil, false, ok || len(line) >= maxHeader
	}
	h.time = at
	switch {
	case bytes.HasPrefix(rest, []byte("stdout ")):
		h.stream = stdout
	case bytes.HasPrefix(rest, []byte("stderr ")):
		h.stream = stderr
	default:
		return h, nil, false, len(rest) >= len("stdout ") || len(line) >= maxHeader
	}
	rest = rest[len("stdout "):]
	if len(rest) < len("F ") {
		return h, nil, false, len(line) >= maxHeader
	}
	if rest[0] != 'F' && rest[0] != 'P' || rest[1] != ' ' {
		return h, nil, false, true
	}
	h.partial = rest[0] == 'P'
	return h, rest[2:], true, true
}

// sink receives what a parser finds.
type sink interface {
	// begin begins a line of the file, at an offset.
	begin(h header, offset int64) error
	// content is output of the line, without its end; valid during the call.
	content(p []byte) error
	// end ends the line.
	end() error
}

// parser cuts the bytes of a file into lines, however they come, and keeps no
// more of them than a header. What is no line is left out.
type parser struct {
	sink   sink
	offset int64 // of the next byte
	start  int64 // of the line
	state  int
	buf    [maxHeader]byte // the beginning of a line
	n      int
}

const (
	inHeader = iota
	inContent
	inGarbage
)

// reset makes the parser begin at a line of a file.
func (p *parser) reset(offset int64) {
	p.offset, p.start, p.state, p.n = offset, offset, inHeader, 0
}

// write parses more bytes.
func (p *parser) write(data []byte) error {
	for len(data) > 0 {
		used, err := p.step(data)
		if err != nil {
			return err
		}
		data = data[used:]
		p.offset += int64(used)
	}
	return nil
}

// step parses bytes up to the end of what they begin with.
func (p *parser) step(data []byte) (used int, err error) {
	if p.state == inHeader {
		return p.header(data)
	}
	end := bytes.IndexByte(data, '\n')
	rest := data
	if end >= 0 {
		rest = data[:end]
	}
	if p.state == inContent {
		if len(rest) > 0 {
			if err := p.sink.content(rest); err != nil {
				return 0, err
			}
		}
		if end >= 0 {
			if err := p.sink.end(); err != nil {
				return 0, err
			}
		}
	}
	if end < 0 {
		return len(data), nil
	}
	p.nextLine(int64(end) + 1)
	return end + 1, nil
}

func (p *parser) nextLine(used int64) {
	p.state, p.n, p.start = inHeader, 0, p.offset+used
}

// header collects the beginning of a line until the header is whole. Of what data
// gives to it, only the header is used.
func (p *parser) header(data []byte) (used int, err error) {
	before := p.n
	if end := bytes.IndexByte(data, '\n'); end >= 0 {
		data = data[:end+1]
	}
	p.n += copy(p.buf[p.n:], data)
	h, rest, ok, whole := parseHeader(p.buf[:p.n])
	switch {
	case ok:
		p.state = inContent
		return p.n - len(rest) - before, p.sink.begin(h, p.start)
	case p.buf[p.n-1] == '\n': // too short for a line
		used = p.n - before
		p.nextLine(int64(used))
		return used, nil
	case whole || p.n == maxHeader:
		p.state = inGarbage
		return p.n - before, nil
	}
	return p.n - before, nil
}

// parseTime parses the time of a header; ok is false if it is none.
func parseTime(text []byte) (t time.Time, ok bool) {
	t, err := time.Parse(time.RFC3339Nano, string(text))
	return t, err == nil
}
