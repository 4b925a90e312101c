package logs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/berth-registry/berth/runner/logs/remote"
)

const (
	// wholeLine is how much of a line is sent in one piece, as Docker does it.
	wholeLine = 16 << 10
	// monitorPiece is how much of a line the monitor writes in one piece.
	monitorPiece = 8 << 10
	// longest is the most that is sent in one piece if somebody else has written
	// the file.
	longest = 32 << 10
)

// batch makes entries of the lines of a log's files: it puts the pieces of a line
// together, up to wholeLine. It implements sink.
type batch struct {
	id     string   // of the container
	out    *scratch // where entries go
	number int64    // of the file
	skip   int64    // what was cut off it

	lines   [streams]pending
	now     stream
	partial bool // the line of the file is a piece
}

// scratch holds entries until they are sent. One serves many logs, one at a time.
type scratch struct {
	entries []remote.Entry
	text    []byte // of their lines
}

func (s *scratch) clear() { s.entries, s.text = s.entries[:0], s.text[:0] }

// add adds an entry with a copy of its line.
func (s *scratch) add(e remote.Entry, line []byte) {
	start := len(s.text)
	s.text = append(s.text, line...)
	e.Line = s.text[start:len(s.text):len(s.text)]
	s.entries = append(s.entries, e)
}

// pending is a line that has not ended.
type pending struct {
	time time.Time
	text []byte // that is not sent
	open bool
	// number and offset are where what is not sent of it begins.
	number, offset int64
	piece          *remote.Piece // that was sent last; nil if none was
}

// resume begins anew at a position.
func (b *batch) resume(p position) {
	for s := range b.lines {
		b.lines[s] = pending{open: p.Open[s] != nil, piece: p.Open[s], number: p.Number, offset: p.Offset}
	}
}

// begin implements sink.
func (b *batch) begin(h header, offset int64) error {
	b.now, b.partial = h.stream, h.partial
	l := &b.lines[h.stream]
	if l.open && len(l.text)+monitorPiece > wholeLine {
		b.emit(h.stream, false)
	}
	if !l.open || len(l.text) == 0 {
		l.time, _ = parseTime(h.time)
		l.number, l.offset = b.number, offset+b.skip
	}
	l.open = true
	return nil
}

// content implements sink.
func (b *batch) content(p []byte) error {
	l := &b.lines[b.now]
	for len(l.text)+len(p) > longest {
		n := longest - len(l.text)
		l.text = append(l.text, p[:n]...)
		p = p[n:]
		b.emit(b.now, false)
	}
	l.text = append(l.text, p...)
	return nil
}

// end implements sink.
func (b *batch) end() error {
	if !b.partial {
		b.close(b.now)
	}
	return nil
}

// close ends a line.
func (b *batch) close(s stream) {
	b.emit(s, true)
	b.lines[s] = pending{text: b.lines[s].text}
}

// emit makes an entry of what there is of a line.
func (b *batch) emit(s stream, last bool) {
	l := &b.lines[s]
	e := remote.Entry{Time: l.time, Stderr: s == stderr}
	if !last || l.piece != nil {
		p := remote.Piece{Ordinal: 1, Last: last}
		if l.piece != nil {
			p.ID, p.Ordinal = l.piece.ID, l.piece.Ordinal+1
		} else {
			sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", b.id, l.number, l.offset))
			p.ID = hex.EncodeToString(sum[:])
		}
		l.piece, e.Piece = &p, &p
	}
	b.out.add(e, l.text)
	l.text = l.text[:0]
}

// flush makes entries of lines that will not end.
func (b *batch) flush() {
	for s := range b.lines {
		if l := &b.lines[s]; l.open && (len(l.text) > 0 || l.piece != nil) {
			b.close(stream(s))
		}
	}
}

// position is up to where all is in entries, if what was read ends at p.
func (b *batch) position(p position) position {
	for s, l := range b.lines {
		if !l.open {
			p.Open[s] = nil
			continue
		}
		p.Open[s] = l.piece
		if len(l.text) > 0 && (l.number < p.Number || l.number == p.Number && l.offset < p.Offset) {
			if l.number < p.Number {
				p.Begin = ""
			}
			p.Number, p.Offset = l.number, l.offset
		}
	}
	return p
}
