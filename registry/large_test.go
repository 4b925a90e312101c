package registry

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLargeManifests(t *testing.T) {
	var l large
	whole := strings.Repeat("x", MaxManifest)
	for _, size := range []int{0, 1, firstSize, usualManifest, usualManifest + 1, MaxManifest} {
		for _, length := range []int{-1, size, size / 2, 2 * size} { // what a client says may be wrong
			data, release, err := l.read(iotest.HalfReader(strings.NewReader(whole[:size])), int64(length))
			if err != nil || string(data) != whole[:size] {
				t.Errorf("%d bytes, said to be %d: got %d, %v", size, length, len(data), err)
			}
			if held := l.used.Load(); size < usualManifest && held != 0 || size > usualManifest && held < int64(size) {
				t.Errorf("%d bytes hold %d", size, held)
			}
			release()
		}
	}
	if _, release, err := l.read(strings.NewReader(whole+"x"), -1); !errors.Is(err, ErrManifestTooLarge) {
		t.Errorf("too large: %v", err)
	} else {
		release()
	}
	// Slow clients that hold all the room there is do not keep usual manifests out.
	var releases []func()
	busy := false
	for range 2 * largeManifests / MaxManifest {
		_, release, err := l.read(io.MultiReader(strings.NewReader(whole), iotest.ErrReader(io.ErrUnexpectedEOF)), MaxManifest)
		releases = append(releases, release)
		busy = busy || errors.Is(err, ErrBusy)
	}
	if !busy || l.used.Load() > largeManifests+int64(len(releases))*MaxManifest {
		t.Errorf("%d bytes are held and no client was turned away", l.used.Load())
	}
	if _, _, err := l.read(bytes.NewReader(make([]byte, usualManifest-1)), usualManifest-1); err != nil {
		t.Errorf("a usual manifest: %v", err)
	}
	for _, release := range releases {
		release()
	}
	if n := l.used.Load(); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
}
