package scrub

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// readAll reads what a reader has.
func readAll(t *testing.T, r *reader) []byte {
	t.Helper()
	var all []byte
	for {
		piece, err := r.next()
		all = append(all, piece...)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestReader reads files of sizes beside and at the borders of what a disk gives, as
// the file system likes it, and as it does where it does not.
func TestReader(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 2 * chunk, 2*chunk + 4096, 3*chunk + 777} {
		data := bytes.Repeat([]byte("berth scrub"), size/11+1)[:size]
		path := filepath.Join(t.TempDir(), "blob")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, newReader(f)); !bytes.Equal(got, data) {
			t.Errorf("a file of %d bytes reads as %d", size, len(got))
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, newReader(struct{ io.Reader }{f})); !bytes.Equal(got, data) {
			t.Errorf("%d bytes that are no file read as %d", size, len(got))
		}
		// The file system refuses a place that is no multiple of anything.
		if size > 10 {
			if _, err := f.Seek(10, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, newReader(f)); !bytes.Equal(got, data[10:]) {
				t.Errorf("a file of %d bytes reads as %d from 10", size, len(got))
			}
		}
		_ = f.Close()
	}
}
