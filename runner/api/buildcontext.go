package api

import (
	"archive/tar"
	"errors"
	"io"
	"path"

	"github.com/moby/go-archive/compression"

	"github.com/berth-registry/berth/runner"
)

const (
	dockerfileName      = "Dockerfile"
	lowerDockerfileName = "dockerfile"
	// maxDockerfile is what of a Dockerfile is held in memory.
	maxDockerfile = 4 << 20
)

// unpacked decompresses an archive, if it is compressed.
func unpacked(r io.Reader) (io.ReadCloser, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "reading the build context: %w", err)
	}
	return plain, nil
}

// watchedContext is the archive of a build's context on its way to the builder,
// which looks for the Dockerfile in what passes.
type watchedContext struct {
	r    io.Reader
	pipe *io.PipeWriter
	done chan struct{} // closed when all has passed and was looked at

	file foundFile
	err  error // of the archive
}

// watchContext begins to watch r for the Dockerfile of that name. It must be
// closed.
func watchContext(r io.Reader, name string) *watchedContext {
	pr, pw := io.Pipe()
	w := &watchedContext{r: r, pipe: pw, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.file, w.err = findDockerfile(pr, name)
		// What nobody looks at must not stop what passes.
		_, _ = io.Copy(io.Discard, pr)
	}()
	return w
}

// Read implements io.Reader. Once it has returned an error, what was found is
// there to be seen.
func (w *watchedContext) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	_, _ = w.pipe.Write(p[:n])
	if err != nil {
		w.end(err)
	}
	return n, err
}

// Close ends the watch. Found reports nothing new after it.
func (w *watchedContext) Close() error {
	w.end(io.ErrUnexpectedEOF)
	return nil
}

func (w *watchedContext) end(err error) {
	_ = w.pipe.CloseWithError(err) // the first counts
	<-w.done
}

// foundFile is what an archive has by a name.
type foundFile struct {
	present bool
	plain   bool // a file, and not a link to one
	content []byte
}

// found returns the Dockerfile. It is known when the archive was read to its end,
// and until then ok is false.
func (w *watchedContext) found() (f foundFile, ok bool, err error) {
	select {
	case <-w.done:
		return w.file, true, w.err
	default:
		return foundFile{}, false, nil
	}
}

var errLargeDockerfile = errors.New("the Dockerfile is larger than 4 MiB")

// findDockerfile reads an archive to its end for the file of that name. Of several
// the last counts, as it does for who unpacks it. One called dockerfile stands in
// for a missing Dockerfile, as in Docker.
func findDockerfile(r io.Reader, name string) (foundFile, error) {
	name = contextPath(name)
	var found, lower foundFile
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return foundFile{}, err
		}
		var into *foundFile
		switch entry := contextPath(h.Name); {
		case entry == name:
			into = &found
		case name == dockerfileName && entry == lowerDockerfileName:
			into = &lower
		default:
			continue
		}
		*into = foundFile{present: true, plain: h.Typeflag == tar.TypeReg}
		if !into.plain {
			continue
		}
		if h.Size > maxDockerfile {
			return foundFile{}, errLargeDockerfile
		}
		if into.content, err = io.ReadAll(archive); err != nil {
			return foundFile{}, err
		}
	}
	if !found.present {
		return lower, nil
	}
	return found, nil
}

// contextPath is how a path in a context is compared with others.
func contextPath(name string) string { return path.Clean("/" + name)[1:] }
