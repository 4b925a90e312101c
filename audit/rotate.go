package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-registry/berth/internal/durable"
)

// asideFormat is the end of the name of a file that was put aside; names sort by
// their time.
const asideFormat = ".20060102T150405.000000000Z"

// rotated is a file that is put aside when it has become too large, and begun
// anew. It is renamed first and opened then, and what cannot be done leaves it as
// it was, only larger: no line is lost by rotation, and a kill at any moment
// leaves whole lines.
type rotated struct {
	path    string
	maxSize int64 // negative: without end
	keep    int

	f    *os.File
	size int64
	next int64 // size from which on it is put aside
	torn bool  // what was written last is no whole line
}

func openRotated(o LogOptions) (*rotated, error) {
	if o.Keep < 0 {
		return nil, fmt.Errorf("cannot keep %d files", o.Keep)
	}
	path, err := filepath.Abs(o.Output)
	if err != nil {
		return nil, err
	}
	r := &rotated{path: path, maxSize: cmp.Or(o.MaxSize, defaultMaxSize), keep: cmp.Or(o.Keep, defaultKeep)}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := r.reopen(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rotated) reopen() error {
	// Opening a pipe would wait for its reader.
	info, err := os.Stat(r.path)
	if err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeCharDevice == 0 {
		return fmt.Errorf("%s is no file", r.path)
	}
	f, err := open(r.path, 0)
	if err != nil {
		return err
	}
	if info, err = f.Stat(); err != nil {
		_ = f.Close()
		return err
	}
	if r.f != nil {
		_ = r.f.Close() // its lines were written
	}
	r.f, r.size, r.next, r.torn = f, info.Size(), r.maxSize, false
	if !info.Mode().IsRegular() {
		r.next = -1
		return nil
	}
	r.torn = !endsLine(f, r.size)
	return nil
}

func open(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|flags, 0o600)
}

// endsLine says whether a file is empty or ends with a whole line.
func endsLine(f *os.File, size int64) bool {
	if size == 0 {
		return true
	}
	var last [1]byte
	_, err := f.ReadAt(last[:], size-1)
	return err == nil && last[0] == '\n'
}

func (r *rotated) write(line []byte) (trouble, err error) {
	if r.next >= 0 && r.size > 0 && r.size+int64(len(line)) > r.next {
		if trouble = r.rotate(); trouble != nil {
			r.next = r.size + max(r.maxSize, maxLine) // not again for each line
		}
	}
	if r.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := r.f.Write(line)
	r.size += int64(n)
	if n > 0 {
		r.torn = n < len(line) && !r.takeBack(int64(n))
	}
	return trouble, err
}

// takeBack removes the n bytes of a line that a full disk cut short, if nobody
// else has written to the file meanwhile.
func (r *rotated) takeBack(n int64) bool {
	info, err := r.f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != r.size || r.f.Truncate(r.size-n) != nil {
		return false
	}
	r.size -= n
	return true
}

// rotate puts the file aside and begins another one. If that fails, lines go on to
// where they went before. A file that was moved away by somebody else is left to
// them.
func (r *rotated) rotate() error {
	if moved, err := r.moved(); moved || err != nil {
		if err == nil {
			err = r.reopen()
		}
		return err
	}
	aside, err := r.aside()
	if err != nil {
		return err
	}
	if err := os.Rename(r.path, aside); err != nil {
		return err
	}
	f, err := open(r.path, os.O_EXCL)
	if err != nil {
		return errors.Join(err, os.Rename(aside, r.path))
	}
	_ = r.f.Close() // its lines were written
	r.f, r.size, r.next, r.torn = f, 0, r.maxSize, false
	return r.prune()
}

// moved says whether the file is no longer the one at its path.
func (r *rotated) moved() (bool, error) {
	there, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := r.f.Stat()
	return err == nil && !os.SameFile(mine, there), err
}

// aside returns a name that no file has.
func (r *rotated) aside() (string, error) {
	for now := time.Now().UTC(); ; now = now.Add(1) {
		name := r.path + now.Format(asideFormat)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}

// prune removes the oldest files that were put aside. Others are not touched,
// whatever their names begin with.
func (r *rotated) prune() error {
	entries, err := os.ReadDir(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		end, ok := strings.CutPrefix(e.Name(), filepath.Base(r.path))
		if _, err := time.Parse(asideFormat, end); ok && err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for _, name := range names[:max(0, len(names)-r.keep)] {
		err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(r.path), name)))
	}
	return err
}

func (r *rotated) close() error { return r.f.Close() }
