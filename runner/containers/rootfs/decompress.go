package rootfs

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decompress returns the bytes of an archive that may be compressed by gzip,
// bzip2, xz or zstd, which its first bytes say. The reader must be closed.
func decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	buf := bufio.NewReaderSize(r, copySize)
	magic, err := buf.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b\x08")):
		return gzip.NewReader(buf)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(buf)), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return unxz(ctx, buf)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")), len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte("\x2a\x4d\x18")):
		z, err := zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(buf), nil
}

// unxz lets the xz program decompress.
func unxz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "xz", "-d", "-c", "-q", "--memlimit-decompress=256MiB")
	pr, pw := io.Pipe()
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, pw, &said
	cmd.WaitDelay = time.Second // for r, which may give nothing more
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := cmd.Wait(); err != nil {
			pw.CloseWithError(fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes())))
			return
		}
		pw.Close()
	}()
	return &xzReader{PipeReader: pr, cancel: cancel, done: done}, nil
}

// xzReader reads what an xz process writes.
type xzReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   <-chan struct{}
}

// Close implements io.Closer: it ends the process.
func (r *xzReader) Close() error {
	r.cancel()
	err := r.PipeReader.Close()
	<-r.done
	return err
}
