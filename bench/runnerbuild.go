package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nameBuildx is the plugin by which docker has an image built with BuildKit.
const nameBuildx = "docker-buildx"

// dockerfile has ten steps: the base image, settings, files of the context, and
// what is made of them.
const dockerfile = `FROM %s
ENV WORD=here
WORKDIR /src
COPY usr/lib/layer0/0 first
RUN busybox mkdir /out && busybox cat first/* | busybox md5sum >/out/first
COPY . .
RUN busybox find . -type f | busybox sort >/out/list
RUN busybox tar -cf /out/all.tar .
RUN busybox gzip -1 /out/all.tar && echo $WORD >/out/word
CMD ["sh"]
`

// built is the image that is built.
const built = "built:latest"

// buildImage measures docker build with the same client and BuildKit in either
// daemon: with an empty cache, and again with nothing changed. The base image is
// there.
func buildImage(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startEngines(ctx, nameRunner, nameDocker)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "context")
	if err := b.writeContext(dir); err != nil {
		return nil, err
	}
	cold := &figure{Name: "a Dockerfile of 10 steps, nothing cached", Unit: "ms"}
	cached := &figure{Name: "the same, all cached", Unit: "ms"}
	var colds, cacheds []turn
	for _, e := range engines {
		if _, err := e.build(ctx, dir); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		colds = append(colds, turn{e.name, e.server, func() (float64, error) { return e.buildCold(ctx, dir) }})
		cacheds = append(cacheds, turn{e.name, e.server, func() (float64, error) {
			return b.short(func() error {
				said, err := e.build(ctx, dir)
				if err == nil && strings.Count(said, "CACHED") < 7 {
					err = errors.New("the cache was not used: " + said)
				}
				return err
			})
		}})
	}
	if err := b.interleave(ctx, cold, colds...); err != nil {
		return nil, err
	}
	cold.ratio(nameRunner, nameDocker, atMost(1))
	if err := b.interleave(ctx, cached, cacheds...); err != nil {
		return nil, err
	}
	cached.ratio(nameRunner, nameDocker, atMost(0.7))
	return []*figure{cold, cached}, nil
}

// buildCold returns the milliseconds of a build without a cache.
func (e *engine) buildCold(ctx context.Context, dir string) (float64, error) {
	if err := errors.Join(e.removeImage(ctx, built), e.call(ctx, http.MethodPost, "/build/prune?all=1", nil, nil)); err != nil {
		return 0, err
	}
	var said string
	took, err := timed(func() (err error) {
		said, err = e.build(ctx, dir)
		return err
	})
	if err == nil && strings.Contains(said, "CACHED") {
		err = errors.New("the cache was not empty: " + said)
	}
	return took, err
}

// build builds the image and returns what was said.
func (e *engine) build(ctx context.Context, dir string) (string, error) {
	config := filepath.Join(runDir, "buildx")
	plugin, _ := lookup(nameBuildx)
	if err := os.MkdirAll(filepath.Join(config, "cli-plugins"), 0o755); err != nil {
		return "", err
	}
	if err := ignore(os.Symlink(plugin, filepath.Join(config, "cli-plugins", nameBuildx)), os.ErrExist); err != nil {
		return "", err
	}
	cmd := e.command(ctx, "build", "--progress", "plain", "--provenance", "false", "--tag", built, dir)
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+config, "DOCKER_BUILDKIT=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), err
}

// writeContext writes a Dockerfile and the files that it takes.
func (b *bench) writeContext(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := errors.Join(fillFiles(w, 0, b.context), w.Close()); err != nil {
		return err
	}
	cmd := exec.Command("tar", "-x", "-C", dir)
	cmd.Stdin = &files
	if err := runQuietly(cmd); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), fmt.Appendf(nil, dockerfile, b.smallImage()), 0o644)
}
