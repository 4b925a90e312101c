package api

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/moby/go-archive/compression"

	"github.com/berth-registry/berth/runner"
)

// buildSource is the archive that is built, or nil if it is left to BuildKit to
// fetch what the request names.
func (x *exchange) buildSource(ctx context.Context, req *runner.BuildRequest, p runner.Progress) (io.ReadCloser, error) {
	switch {
	case req.Remote == "":
		return io.NopCloser(x.r.Body), nil
	case isGit(req.Remote):
		return nil, nil
	case !strings.HasPrefix(req.Remote, "http://") && !strings.HasPrefix(req.Remote, "https://"):
		return nil, runner.Errorf(runner.ErrInvalid, "remoteURL (%s) could not be recognized as URL", req.Remote)
	}
	body, err := download(ctx, req.Remote, p)
	if err != nil {
		return nil, err
	}
	content := bufio.NewReader(body)
	if isArchive(content) {
		req.Remote = ""
		return struct {
			io.Reader
			io.Closer
		}{content, body}, nil
	}
	defer body.Close()
	dockerfile, err := io.ReadAll(io.LimitReader(content, maxDockerfile+1))
	switch {
	case err != nil:
		return nil, runner.Errorf(runner.ErrPrecondition, "error downloading remote context %s: %w", req.Remote, err)
	case len(dockerfile) > maxDockerfile:
		return nil, runner.Errorf(runner.ErrInvalid, "%w", errLargeDockerfile)
	}
	req.Remote, req.Dockerfile = "", ""
	return io.NopCloser(onlyDockerfile(dockerfile)), nil
}

// isArchive says whether what comes is an archive, and not the text of a
// Dockerfile.
func isArchive(r *bufio.Reader) bool {
	const magicAt, magic = 257, "ustar"
	begin, _ := r.Peek(magicAt + len(magic))
	return compression.Detect(begin) != compression.None || bytes.HasSuffix(begin, []byte(magic))
}

// onlyDockerfile is the archive of a context that has a Dockerfile and nothing
// else.
func onlyDockerfile(content []byte) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// Writing to a buffer does not fail.
	_ = w.WriteHeader(&tar.Header{Name: dockerfileName, Mode: 0o644, Size: int64(len(content))})
	_, _ = w.Write(content)
	_ = w.Close()
	return &b
}
