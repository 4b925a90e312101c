package logs

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// adopt gives the files that a monitor has written to since the last time names
// that last, clears what was interrupted, and makes the next file ahead. It may
// be interrupted anywhere, and the monitor may begin another file at any time. It
// says whether there is something new.
func adopt(dir string) (changed bool, err error) {
	s, err := scan(dir)
	if err != nil {
		return false, err
	}
	for _, name := range s.stale {
		if err := remove(s.path(name)); err != nil {
			return false, err
		}
	}
	number := s.newest()
	if s.next != nil {
		if _, ok := s.has(s.next.info); ok {
			if err := remove(s.path(nextName)); err != nil {
				return false, err
			}
		} else if s.nextUsed() {
			number++
			changed = true
			if err := os.Rename(s.path(nextName), s.path(fileName(number, 0))); err != nil {
				return false, err
			}
		}
	}
	if s.current != nil && !s.currentKnown() {
		// By now it may be another file, which is then the one to keep.
		changed = true
		err := os.Link(s.path(FileName), s.path(fileName(number+1, 0)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return changed, prepare(dir)
}

// currentKnown says whether the current file has a name that lasts, or had one as
// the next and so has it now.
func (s *files) currentKnown() bool {
	if s.next != nil && os.SameFile(s.next.info, s.current.info) {
		return true
	}
	_, ok := s.has(s.current.info)
	return ok
}

// prepare makes the file ahead that the monitor goes on to. The monitor empties
// what is named ctr.log.tmp and renames it to ctr.log: it must never be the file
// that is written to.
func prepare(dir string) error {
	next, tmp := filepath.Join(dir, nextName), filepath.Join(dir, tmpName)
	// Since only here a next file gets the other name, once that is seen missing
	// the monitor cannot come to use the next file. The order of what follows
	// matters.
	if _, err := os.Lstat(tmp); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	info, err := os.Lstat(next)
	if errors.Is(err, fs.ErrNotExist) {
		f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if current, err := os.Lstat(filepath.Join(dir, FileName)); err == nil && os.SameFile(info, current) || info.Size() > 0 {
		return nil // in use already: the next round gives it its number
	}
	if err := os.Link(next, tmp); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // fs.ErrExist: the monitor is just making one of its own
	}
	return nil
}

// rotate begins a new file as a monitor does. There must be no monitor.
func rotate(dir string) error {
	tmp := filepath.Join(dir, tmpName)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, FileName))
}

// trim makes the files that are not written to any more fit into the limit,
// beside what is reserved for the one that is. The oldest lines go.
//
// What is not sent yet is kept up to a bound of its own, as long as the disk has
// room.
func trim(dir string, o Options, reserved int64) error {
	limit, piece := o.limit()
	s, err := scan(dir)
	if err != nil {
		return err
	}
	var old []file
	var sum int64
	for _, f := range s.numbered {
		if !s.isCurrent(f.info) {
			old = append(old, f)
			sum += f.size()
		}
	}
	hold := o.holdOf(dir)
	keep := hold.bound(old, limit) - reserved
	for len(old) > 0 && sum-old[0].size() >= keep {
		if err := remove(s.path(old[0].name)); err != nil {
			return err
		}
		sum -= old[0].size()
		old = old[1:]
		keep = hold.bound(old, limit) - reserved
	}
	// A file is a little longer than a piece when it is noticed. To copy it for
	// that is not worth while; nor is it for a compressed one, which is small.
	over := sum - keep
	if over <= piece/8 || old[0].packed {
		return nil
	}
	err = cut(s, old[0], over)
	if errors.Is(err, syscall.ENOSPC) {
		return remove(s.path(old[0].name)) // no room for a copy of its end
	}
	return err
}

// hold is what is kept of a log because it is not sent.
type hold struct {
	number int64 // of the first file with something that is not sent for good
	max    int64 // bytes; 0 if nothing is
}

// holdOf makes out what is to be kept of a log.
func (o Options) holdOf(dir string) hold {
	if o.Remote == nil || crowded(dir) {
		return hold{}
	}
	p := loadPosition(dir)
	if p.Hold > 0 {
		p.Number = min(p.Number, p.Hold)
	}
	return hold{p.Number, o.MaxUnsent}
}

// bound is how long the log may be whose first file is that of old.
func (h hold) bound(old []file, limit int64) int64 {
	if len(old) > 0 && old[0].number >= h.number {
		return max(limit, h.max)
	}
	return limit
}

// crowded says whether a directory's file system is nearly full.
func crowded(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Bavail < fs.Blocks/20
}

// cut shortens a file by its first bytes, and some more to the end of a line.
func cut(s *files, f file, bytes int64) error {
	in, err := os.Open(s.path(f.name))
	if err != nil {
		return err
	}
	defer in.Close()
	at, err := lineAfter(in, bytes)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(s.path(cutName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := in.Seek(at, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.ReadFrom(in); err != nil {
		return errors.Join(err, remove(s.path(cutName)))
	}
	if err := os.Rename(s.path(cutName), s.path(fileName(f.number, f.skip+at))); err != nil {
		return err
	}
	return remove(s.path(f.name))
}

// lookahead is how far the end of the output's line is looked for; after that, the
// end of a piece of it must do.
const lookahead = 64 << 10

// lineAfter returns where a line begins at or after an offset.
func lineAfter(r io.ReaderAt, offset int64) (int64, error) {
	// The byte before tells whether a line begins right there.
	buf := bufio.NewReaderSize(io.NewSectionReader(r, max(offset-1, 0), 1<<62), lookahead)
	at := max(offset-1, 0)
	first := int64(-1)
	for {
		line, err := buf.ReadSlice('\n')
		at += int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if first >= 0 {
				return first, nil
			}
			return at, ignoreEOF(err)
		}
		if first < 0 {
			first = at
			continue // of this line only the end is known
		}
		if h, _, ok, _ := parseHeader(line); ok && !h.partial && at-first < lookahead {
			return at, nil
		}
		if at-first >= lookahead {
			return first, nil
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
