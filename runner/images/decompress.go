package images

import (
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// packing is how an archive is compressed.
type packing int

const (
	packedNot packing = iota
	packedGzip
	packedZstd
	packedBzip2
	packedXZ
)

// magicLen is how much of the beginning packingOf needs.
const magicLen = 10

func packingOf(begin []byte) packing {
	for _, m := range []struct {
		magic string
		is    packing
	}{
		{"\x1f\x8b\x08", packedGzip},
		{"\x28\xb5\x2f\xfd", packedZstd},
		{"BZh", packedBzip2},
		{"\xfd7zXZ\x00", packedXZ},
	} {
		if bytes.HasPrefix(begin, []byte(m.magic)) {
			return m.is
		}
	}
	if len(begin) >= 4 && begin[0]&0xf0 == 0x50 && string(begin[1:4]) == "\x2a\x4d\x18" {
		return packedZstd // it begins with a frame to be skipped
	}
	return packedNot
}

// maxWindow bounds the memory that a zstd archive can ask for: what the zstd
// command allows, too.
const maxWindow = 128 << 20

// unpacker is an archive on its way to being decompressed: what is written to it
// packed is read from it plain. The writer closes in, the reader calls close.
type unpacker struct {
	in  io.WriteCloser
	out io.Reader
	// close stops it if it has not ended, and returns why it failed on its own.
	close func() error
}

// newUnpacker starts a decompressor. Commands do it several times as fast as Go
// does, where they are installed, and have no rights that their work does not
// need.
func newUnpacker(ctx context.Context, p packing) (*unpacker, error) {
	commands := map[packing][][]string{
		packedGzip: {{"igzip", "-d", "-c"}, {"unpigz", "-d", "-c"}},
		packedXZ:   {{"xz", "-d", "-c", "-q"}},
	}
	for _, command := range commands[p] {
		if path, err := exec.LookPath(command[0]); err == nil {
			return commandUnpacker(ctx, path, command[1:])
		}
	}
	r, w := io.Pipe()
	u := &unpacker{in: w, out: r, close: func() error { return r.Close() }}
	switch p {
	case packedNot:
	case packedGzip:
		u.out = &lazyReader{open: func() (io.Reader, error) { return gzip.NewReader(r) }}
	case packedBzip2:
		u.out = bzip2.NewReader(r)
	case packedZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		u.out = z
		u.close = func() error {
			err := r.Close() // first, or z waits for its input
			z.Close()
			return err
		}
	default:
		return nil, runner.Errorf(runner.ErrInvalid, "the archive is compressed by xz, which is not installed")
	}
	return u, nil
}

// lazyReader opens its reader when it is first read, when there is something to
// read the header from.
type lazyReader struct {
	open func() (io.Reader, error)
	r    io.Reader
}

func (l *lazyReader) Read(p []byte) (int, error) {
	if l.r == nil {
		r, err := l.open()
		if err != nil {
			return 0, err
		}
		l.r = r
	}
	return l.r.Read(p)
}

// pipeSize is the capacity of the pipes to and from a decompressor: fewer
// switches from one process to the other.
const pipeSize = 1 << 20

func commandUnpacker(ctx context.Context, path string, args []string) (*unpacker, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, err
	}
	defer outW.Close()
	for _, f := range []*os.File{inW, outR} {
		setPipeSize(f)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, &limitedWriter{&said, 1000}
	cmd.Env, cmd.Dir = []string{}, "/"
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	return &unpacker{in: inW, out: outR, close: func() error {
		outR.Close() // if it still writes, that ends it
		inW.Close()
		err := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGPIPE {
			return nil // nobody wanted to read on
		}
		if err != nil {
			return fmt.Errorf("%s: %w %s", path, err, strings.TrimSpace(said.String()))
		}
		return nil
	}}, nil
}

// setPipeSize is only to be faster.
func setPipeSize(f *os.File) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
}

type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
