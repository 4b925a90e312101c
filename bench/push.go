package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// nameLocal is the process that hashes and writes without a registry.
const nameLocal = "sha256 + write + fsync"

// push measures how fast a great blob is stored, beside a process that hashes
// the same bytes, writes them to a file of the same filesystem and syncs it. The
// bytes are in memory before and hashed by the client before, do not compress,
// and differ from run to run. docker-registry does not sync.
//
// What was stored is removed after each push: a virtual machine whose host takes
// back free memory pays several times more for a page of the page cache that is
// new than for one that was used before, and would be what is measured.
func push(ctx context.Context, b *bench) ([]*figure, error) {
	w, err := startWriter(ctx, filepath.Join(b.dir, "file"), b.blob)
	if err != nil {
		return nil, err
	}
	p := &pusher{bench: b, blob: random(b.blob, 1)}
	var figures []*figure
	for _, way := range []struct {
		name string
		push pushFunc
	}{
		{"POST and PUT", (*conn).pushBlob},
		{"POST, PATCH in chunks and PUT", (*conn).patchBlob},
	} {
		f := &figure{Name: fmt.Sprintf("%s, %s", megabytes(b.blob), way.name), Unit: "MB/s"}
		turns := []turn{
			{of: nameBerth, measure: func() (float64, error) {
				return p.fresh(ctx, f, way.push, func() (*server, error) { return b.startBerth(ctx, nameBerth) })
			}},
			{of: nameLocal, measure: func() (float64, error) { p.serial++; return w.rate(p.serial) }},
			{of: nameDockerRegistry, measure: func() (float64, error) {
				return p.fresh(ctx, f, way.push, func() (*server, error) { return b.startDockerRegistry(ctx) })
			}},
		}
		for _, r := range b.peers {
			turns = append(turns, turn{of: r.name, measure: func() (float64, error) { return p.rate(ctx, way.push, r.addr) }})
		}
		if err := b.interleave(ctx, f, turns...); err != nil {
			return nil, err
		}
		f.ratio(nameBerth, nameLocal, atLeast(0.8))
		for _, t := range turns[2:] {
			f.ratio(nameBerth, t.of, bound{})
		}
		figures = append(figures, f)
	}
	return figures, w.close()
}

// pushFunc pushes a blob to a repository at an address.
type pushFunc func(c *conn, addr, repo string, d digest.Digest, body ...[]byte) error

// pusher pushes a great blob that it makes new each time.
type pusher struct {
	*bench
	blob   []byte
	serial int
}

// fresh starts a server, warms it up with a small blob, returns the rate in MB/s
// of a push, and removes the server and all that it stored.
func (p *pusher) fresh(ctx context.Context, f *figure, push pushFunc, start func() (*server, error)) (float64, error) {
	s, err := start()
	if err != nil {
		return 0, err
	}
	small := random(1*mb, 2)
	_, err = together(ctx, s.addr, 1, func(_ int, c *conn) error { return push(c, s.addr, "push/warm", digest.FromBytes(small), small) })
	if err != nil {
		return 0, err
	}
	rate, err := p.profiled(ctx, 0, f, turn{s.name, s, func() (float64, error) { return p.rate(ctx, push, s.addr) }})
	return rate, errors.Join(err, p.stop(s, syscall.SIGTERM), os.RemoveAll(s.dir))
}

// rate returns the rate of a push in MB/s.
func (p *pusher) rate(ctx context.Context, push pushFunc, addr string) (float64, error) {
	p.serial++
	stamp(p.blob, p.serial)
	d, body := digest.FromBytes(p.blob), pieces(p.blob)
	elapsed, err := together(ctx, addr, 1, func(_ int, c *conn) error { return push(c, addr, "push/blob", d, body...) })
	return float64(len(p.blob)) / mb / elapsed.Seconds(), err
}

// writer is the helper process that writeFile runs.
type writer struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	size int64
}

func startWriter(ctx context.Context, path string, size int64) (*writer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &writer{cmd: exec.CommandContext(ctx, self, helperWriteFile, path, strconv.FormatInt(size, 10)), size: size}
	w.cmd.Stderr = os.Stderr
	in, err1 := w.cmd.StdinPipe()
	out, err2 := w.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	w.in, w.out = in, bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = w.rate(0) // warms up
	return w, err
}

// rate has the helper write once and returns MB/s.
func (w *writer) rate(serial int) (float64, error) {
	if _, err := fmt.Fprintln(w.in, serial); err != nil {
		return 0, err
	}
	line, err := w.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return float64(w.size) / mb / time.Duration(ns).Seconds(), err
}

func (w *writer) close() error { return errors.Join(w.in.Close(), w.cmd.Wait()) }

// writeFile is a helper: for each line of its input it hashes bytes, writes them
// to a file and syncs it, and says how many nanoseconds that took. It ends with
// its input.
func writeFile(_ context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%w: want a path and a size", errUsage)
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	blob := random(size, 1)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		serial, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		stamp(blob, serial)
		start := time.Now()
		if err := hashAndWrite(args[0], blob); err != nil {
			return err
		}
		fmt.Println(time.Since(start).Nanoseconds())
		if err := os.Remove(args[0]); err != nil {
			return err
		}
	}
	return lines.Err()
}

func hashAndWrite(path string, blob []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, p := range pieces(blob) {
		h.Write(p) // never fails
		if _, err := f.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	h.Sum(nil)
	return errors.Join(f.Sync(), f.Close())
}
