package logs

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// queue reads a log from where it has been sent to, in batches.
type queue struct {
	batch  batch
	parser parser
	buf    []byte // of the sender

	sent position // durable
	at   position // up to where it is read
	// bounded is the most that may wait, in bytes; 0 is no bound.
	bounded int64
	// gap is told of what is left out: bytes, or -1 if nobody knows how many.
	gap func(bytes int64)

	f    *os.File // the file at at; nil if none is open
	skip int64
}

// batchSize is how much of a log is sent at once, in bytes.
const batchSize = 256 << 10

// newQueue returns the queue of the log in a directory.
func newQueue(id, dir string, bounded int64, gap func(bytes int64)) *queue {
	q := &queue{batch: batch{id: id}, sent: loadPosition(dir), bounded: bounded, gap: gap}
	q.parser.sink = &q.batch
	q.rewind(q.sent)
	return q
}

// rewind goes back to a position: what follows is read again.
func (q *queue) rewind(p position) {
	q.sent, q.at = p, p
	q.batch.resume(p)
	q.close()
}

// close closes the file. Reading goes on where it was.
func (q *queue) close() {
	if q.f != nil {
		q.f.Close()
		q.f = nil
	}
}

// idle closes the file, unless it ends in the midst of a line.
func (q *queue) idle() {
	if q.parser.start == q.parser.offset {
		q.close()
	}
}

// read puts what comes next into out, at most about batchSize of it. It says
// whether there is more, and returns up to where all is sent once out is.
func (q *queue) read(dir string, out *scratch) (next position, more bool, err error) {
	q.batch.out = out
	s, err := scan(dir)
	if err != nil {
		return q.sent, false, err
	}
	list := s.all()
	if err := q.bound(s, list); err != nil {
		return q.sent, false, err
	}
	for room := int64(batchSize); room > 0; {
		if q.f == nil {
			found, err := q.locate(s, list)
			if errors.Is(err, errChanged) {
				more = true // it was renamed, or shortened: the next look finds it
				break
			}
			if err != nil {
				return q.sent, false, err
			}
			if !found {
				break
			}
		}
		n, err := q.copy(room)
		if err != nil {
			return q.sent, false, err
		}
		room -= n
		if room <= 0 {
			more = true
			break
		}
		// The file was read to its end. It is at its end if there was a later one.
		if len(list) == 0 || list[len(list)-1].number <= q.at.Number {
			break
		}
		q.close()
		q.at = position{Number: q.at.Number + 1}
	}
	return q.batch.position(q.at), more, nil
}

// copy parses up to room bytes of the file, and returns how many there were.
func (q *queue) copy(room int64) (sum int64, err error) {
	for sum < room {
		n, err := q.f.Read(q.buf)
		if werr := q.parser.write(q.buf[:n]); werr != nil {
			return sum, werr
		}
		sum += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return sum, err
		}
		if n == 0 {
			break
		}
	}
	q.at.Offset = q.skip + q.parser.start
	if q.at.Begin == "" && q.skip == 0 {
		q.at.Begin = beginOf(q.f)
	}
	return sum, nil
}

// locate opens the file to go on in. It is false if there is none yet.
func (q *queue) locate(s *files, list []file) (ok bool, err error) {
	for _, f := range list {
		if f.number < q.at.Number {
			continue
		}
		if f.number > q.at.Number {
			if q.at.Number > 0 {
				q.skipped(-1)
			}
			q.at = position{Number: f.number}
		}
		err := q.enter(s.path(f.name), f)
		if errors.Is(err, fs.ErrNotExist) {
			err = errChanged
		}
		return err == nil, err
	}
	return false, nil
}

// enter opens a file at the place to go on.
func (q *queue) enter(path string, f file) error {
	open, err := os.Open(path)
	if err != nil {
		return err
	}
	o := opened{f, open}
	if info, err := open.Stat(); err != nil || !os.SameFile(info, f.info) {
		open.Close()
		return errors.Join(err, errChanged)
	}
	if err := o.use(); err != nil {
		o.f.Close()
		return err
	}
	if f.skip == 0 && q.at.Begin != "" && q.at.Begin != beginOf(o.f) {
		q.at.Begin, q.at.Offset = "", 0 // another file, of the same number
		q.skipped(-1)
	}
	if f.skip > q.at.Offset {
		if q.at.Offset > 0 {
			q.skipped(f.skip - q.at.Offset)
		} else {
			q.skipped(-1)
		}
		q.at.Offset = f.skip
	}
	if _, err := o.f.Seek(q.at.Offset-f.skip, io.SeekStart); err != nil {
		o.f.Close()
		return err
	}
	q.f, q.skip = o.f, f.skip
	q.batch.number, q.batch.skip = f.number, f.skip
	q.parser.reset(q.at.Offset - f.skip)
	return nil
}

// skipped tells of a gap. A line that was open there has lost its end.
func (q *queue) skipped(bytes int64) {
	q.batch.flush()
	q.gap(bytes)
}

// bound leaves out the oldest of what waits if it is too much.
func (q *queue) bound(s *files, list []file) error {
	if q.bounded <= 0 {
		return nil
	}
	waiting := int64(0)
	for _, f := range list {
		switch {
		case f.number > q.at.Number:
			waiting += f.size()
		case f.number == q.at.Number:
			waiting += max(f.skip+f.size()-max(q.at.Offset, f.skip), 0)
		}
	}
	over := waiting - q.bounded
	if over <= 0 {
		return nil
	}
	q.close()
	for _, f := range list {
		if f.number < q.at.Number {
			continue
		}
		from := int64(0)
		if f.number == q.at.Number {
			from = max(q.at.Offset-f.skip, 0)
		}
		if rest := f.size() - from; rest <= over && f.number != list[len(list)-1].number {
			over -= rest
			q.at = position{Number: f.number + 1}
			continue
		}
		q.skipped(waiting - q.bounded)
		return q.leap(s.path(f.name), f, from+over)
	}
	return nil
}

// leap goes on at the first line after an offset in a file.
func (q *queue) leap(path string, f file, offset int64) error {
	open, err := os.Open(path)
	if err != nil {
		return ignoreNotExist(err)
	}
	o := opened{f, open}
	defer func() { o.f.Close() }()
	if err := o.use(); err != nil {
		return err
	}
	at, err := lineAfter(o.f, offset)
	if err != nil {
		return err
	}
	q.at = position{Number: f.number, Offset: f.skip + at}
	return nil
}

// beginOf returns the time that a file begins with.
func beginOf(f *os.File) string {
	var buf [maxHeader]byte
	n, err := f.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	h, _, ok, _ := parseHeader(buf[:n])
	if !ok {
		return ""
	}
	return string(h.time)
}
