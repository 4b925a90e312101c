package logs

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FileName is the name of the log in its directory, to which a monitor writes.
const FileName = "ctr.log"

const (
	prefix   = FileName + "."
	nextName = prefix + "next"
	tmpName  = prefix + "tmp"
	cutName  = prefix + "cut"
)

// file is one of the files of a log.
type file struct {
	name   string
	number int64 // its place among them; that of a file without a number is made out
	skip   int64 // bytes that were cut off its beginning
	packed bool  // it is compressed
	length int64 // of what is in it, if it is
	info   fs.FileInfo
}

// size is how much log is in the file, in bytes.
func (f file) size() int64 {
	if f.packed {
		return f.length
	}
	return f.info.Size()
}

// files is what is in the directory of a log.
type files struct {
	dir      string
	numbered []file // the oldest first
	current  *file  // that is written to
	next     *file
	tmp      *file
	stale    []string // names that stand for nothing any more
}

// scans bounds how often a directory is read again because it changed meanwhile.
const scans = 20

// scan lists the files of a log. A directory that is not there is an error.
func scan(dir string) (*files, error) {
	var s *files
	for range scans {
		names, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		s = &files{dir: dir}
		changed := false
		for _, entry := range names {
			if entry.Name() != FileName && !strings.HasPrefix(entry.Name(), prefix) {
				continue
			}
			info, err := os.Lstat(filepath.Join(dir, entry.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				changed = true
				break
			}
			if err != nil {
				return nil, err
			}
			s.add(file{name: entry.Name(), info: info})
		}
		if !changed && s.still() {
			break
		}
	}
	s.order()
	return s, nil
}

// still says whether the current file is the one that was found.
func (s *files) still() bool {
	info, err := os.Lstat(s.path(FileName))
	if s.current == nil || err != nil {
		return s.current == nil && err != nil
	}
	return os.SameFile(info, s.current.info)
}

func (s *files) path(name string) string { return filepath.Join(s.dir, name) }

func (s *files) add(f file) {
	switch f.name {
	case FileName:
		s.current = &f
	case nextName:
		s.next = &f
	case tmpName:
		s.tmp = &f
	case cutName:
		s.stale = append(s.stale, f.name)
	default:
		if f.parseName() {
			s.numbered = append(s.numbered, f)
		}
	}
}

// parseName takes the number from a file's name. It says whether there is one.
func (f *file) parseName() bool {
	text := strings.TrimPrefix(f.name, prefix)
	var err error
	if text, f.packed = strings.CutSuffix(text, packedSuffix); f.packed {
		at := strings.LastIndexByte(text, '.')
		if at < 0 {
			return false
		}
		if f.length, err = strconv.ParseInt(text[at+1:], 10, 64); err != nil || f.length < 0 {
			return false
		}
		text = text[:at]
	}
	number, cut, isCut := strings.Cut(text, "-")
	if f.number, err = strconv.ParseInt(number, 10, 64); err != nil || f.number < 1 {
		return false
	}
	if isCut {
		f.skip, err = strconv.ParseInt(cut, 10, 64)
	}
	if err != nil || f.skip < 0 {
		return false
	}
	name := fileName(f.number, f.skip)
	if f.packed {
		name = packedName(f.number, f.skip, f.length)
	}
	return name == f.name
}

// fileName is the name of a file with a number.
func fileName(number, skip int64) string {
	name := prefix + strconv.FormatInt(number, 10)
	if skip > 0 {
		name += "-" + strconv.FormatInt(skip, 10)
	}
	return name
}

// packedSuffix ends the name of a compressed file.
const packedSuffix = ".gz"

// packedName is the name of a compressed file with a number.
func packedName(number, skip, length int64) string {
	return fileName(number, skip) + "." + strconv.FormatInt(length, 10) + packedSuffix
}

// order sorts the numbered files. Of one that is there twice, because shortening
// or compressing it was interrupted, only the shorter counts.
func (s *files) order() {
	slices.SortFunc(s.numbered, func(a, b file) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(b.skip, a.skip), -cmp.Compare(len(a.name), len(b.name)))
	})
	sorted := s.numbered
	s.numbered = nil
	for _, f := range sorted {
		if len(s.numbered) > 0 && s.newest() == f.number {
			s.stale = append(s.stale, f.name)
			continue
		}
		s.numbered = append(s.numbered, f)
	}
}

// has returns the number of a file that has one.
func (s *files) has(info fs.FileInfo) (number int64, ok bool) {
	for _, f := range s.numbered {
		if os.SameFile(f.info, info) {
			return f.number, true
		}
	}
	return 0, false
}

// newest is the highest number.
func (s *files) newest() int64 {
	if len(s.numbered) == 0 {
		return 0
	}
	return s.numbered[len(s.numbered)-1].number
}

// nextUsed says whether the monitor has begun to write to the file made ahead for
// it, which has no number yet.
func (s *files) nextUsed() bool {
	if s.next == nil {
		return false
	}
	if _, ok := s.has(s.next.info); ok {
		return false
	}
	return s.next.size() > 0 || s.current != nil && os.SameFile(s.next.info, s.current.info)
}

// all returns the files with log in them, the oldest first, each with the number
// that it has or that a Keeper would give it.
func (s *files) all() []file {
	list := slices.Clone(s.numbered)
	number := s.newest()
	if s.nextUsed() {
		number++
		f := *s.next
		f.number = number
		list = append(list, f)
	}
	if s.current == nil || slices.ContainsFunc(list, func(f file) bool { return os.SameFile(f.info, s.current.info) }) {
		return list
	}
	f := *s.current
	f.number = number + 1
	return append(list, f)
}

// currentSize is how long the file is that is written to.
func (s *files) currentSize() int64 {
	if s.current == nil {
		return 0
	}
	return s.current.size()
}

// isCurrent says whether a file is the one that is written to.
func (s *files) isCurrent(info fs.FileInfo) bool {
	return s.current != nil && os.SameFile(s.current.info, info)
}

// Remove removes the log in a directory, of which no monitor writes one and no
// Keeper keeps one.
func Remove(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range names {
		name := entry.Name()
		if name != FileName && !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
