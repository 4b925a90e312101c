package scrub

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// chunk is how many bytes are read at once.
	chunk = 256 << 10
	// align is what memory, and the place in a file, must be a multiple of for a read
	// that goes round the page cache.
	align = 4096
)

// reader reads a blob piece by piece. From a plain file it reads what the disk has,
// round the page cache: what is in memory proves nothing, and what pulls need there
// must not make room for what nobody asks for. Where the file system cannot do that,
// it reads as anybody does.
type reader struct {
	r      io.Reader
	file   *os.File // or nil
	direct bool
	buf    []byte
}

func newReader(f io.Reader) *reader {
	buf := make([]byte, chunk+align)
	if over := int(uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % align); over > 0 { //nolint:gosec // the address is only asked for
		buf = buf[align-over:]
	}
	r := &reader{r: f, buf: buf[:chunk]}
	if r.file, _ = f.(*os.File); r.file != nil {
		r.direct = r.setDirect(true)
	}
	return r
}

// next reads the next piece, which is valid until the next call.
func (r *reader) next() ([]byte, error) {
	n, err := r.r.Read(r.buf)
	if r.direct && (errors.Is(err, unix.EINVAL) || n%align != 0) {
		// The file system does not take it after all, or this is the end, behind which
		// the place is no multiple of anything.
		r.direct = !r.setDirect(false)
		if n == 0 {
			n, err = r.r.Read(r.buf)
		}
	}
	return r.buf[:n], err
}

// setDirect turns reads round the page cache on or off, and says whether it could.
func (r *reader) setDirect(on bool) bool {
	c, err := r.file.SyscallConn()
	if err != nil {
		return false
	}
	var ferr error
	err = c.Control(func(fd uintptr) {
		var flags int
		if flags, ferr = unix.FcntlInt(fd, unix.F_GETFL, 0); ferr != nil {
			return
		}
		if flags &^= unix.O_DIRECT; on {
			flags |= unix.O_DIRECT
		}
		_, ferr = unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
	return err == nil && ferr == nil
}
