package bolt

import (
	"os"

	"golang.org/x/sys/unix"
)

// room is the part of the file that bbolt has not written to yet. bbolt makes
// the file longer by 16 MiB at a time, which are a hole at first. To sync a page
// that was written into a hole takes the file system three times as long as to
// sync one that replaces another, so the holes are filled with zeros.
type room struct {
	file   *os.File
	filled int64 // up to here there are no holes
}

func openRoom(path string) (*room, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &room{file: f}, nil
}

// fill fills the holes of the file. Nobody else may write to it meanwhile. It is
// no error if that cannot be done, on a full disk for example.
func (r *room) fill() {
	fi, err := r.file.Stat()
	if err != nil || fi.Size() <= r.filled {
		return
	}
	for r.filled < fi.Size() {
		from, err := r.file.Seek(r.filled, unix.SEEK_HOLE)
		if err != nil || from >= fi.Size() { // every file ends in a hole
			break
		}
		to, err := r.file.Seek(from, unix.SEEK_DATA)
		if err != nil { // there is nothing but that hole
			to = fi.Size()
		}
		if !r.zero(from, to) {
			return
		}
		r.filled = to
	}
	r.filled = fi.Size()
}

// zero writes zeros from one offset to another.
func (r *room) zero(from, to int64) bool {
	for from < to {
		n, err := r.file.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return false
		}
		from += int64(n)
	}
	return true
}

var zeros [1 << 20]byte
