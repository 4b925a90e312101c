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
	"time"

	"github.com/opencontainers/go-digest"
)

// nameLocal is the process that hashes and writes without a registry.
const nameLocal = "sha256 + write + fsync"

// push measures how fast a great blob is stored, beside a process that hashes
// the same bytes, writes them to a file of the same filesystem and syncs it. The
// bytes are in memory before and hashed by the client before, do not compress,
// and differ from run to run. docker-registry does not sync.
func push(ctx context.Context, b *bench) ([]*figure, error) {
	servers, err := b.startRegistries(ctx)
	if err != nil {
		return nil, err
	}
	w, err := startWriter(ctx, filepath.Join(b.dir, "file"), b.blob)
	if err != nil {
		return nil, err
	}
	blob := random(b.blob, 1)
	var figures []*figure
	serial := 0
	for _, way := range []struct {
		name string
		push func(*conn, string, string, digest.Digest, ...[]byte) error
	}{
		{"POST and PUT", (*conn).pushBlob},
		{"POST, PATCH in chunks and PUT", (*conn).patchBlob},
	} {
		f := &figure{Name: fmt.Sprintf("%s, %s", megabytes(b.blob), way.name), Unit: "MB/s"}
		var turns []turn
		for _, s := range servers {
			measure := func() (float64, error) {
				serial++
				stamp(blob, serial)
				d := digest.FromBytes(blob)
				body := pieces(blob)
				elapsed, err := together(ctx, s.addr, 1, func(_ int, c *conn) error { return way.push(c, s.addr, "push/blob", d, body...) })
				return float64(b.blob) / mb / elapsed.Seconds(), err
			}
			if _, err := measure(); err != nil { // warms up
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			turns = append(turns, turn{s.name, s, measure})
		}
		alone := turn{of: nameLocal, measure: func() (float64, error) { serial++; return w.rate(serial) }}
		if err := b.interleave(ctx, f, append([]turn{turns[0], alone}, turns[1:]...)...); err != nil {
			return nil, err
		}
		f.ratio(nameBerth, nameLocal, atLeast(0.8))
		compare(f, servers[1:])
		figures = append(figures, f)
	}
	return figures, w.close()
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
