package runner

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestBuild has the docker command build, with buildx and without.
func TestBuild(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	t.Run("buildx", func(t *testing.T) {
		b := h.buildx(t)
		b.alike(t, "bx")
		b.mounts(t)
		b.outputs(t)
		b.caches(t)
		b.platforms(t)
	})
	t.Run("classic", func(t *testing.T) {
		b := h.classic(t)
		b.alike(t, "cl")
		b.words(t)
		b.sameSecond(t)
	})
	t.Run("version 2", func(t *testing.T) {
		b := h.debian(t)
		b.alike(t, "v2")
		b.mounts(t)
	})
}

// builder is a way to have an image built: the command with buildx, or without as
// old ones are.
type builder struct {
	*host

	docker *berthtest.Command
	args   []string // before those of a build
}

// buildx is the builder of the command with the plugin.
func (h *host) buildx(t *testing.T) *builder {
	t.Helper()
	config := filepath.Join(t.TempDir(), "docker")
	pluginsTo(t, config)
	return &builder{
		host: h, args: []string{"buildx", "build", "--progress", "plain"},
		docker: berthtest.NewCommand(t, "docker", "--config", config, "--host", h.Host()).
			Env("DOCKER_CLI_HINTS=false", "SECRET=quiet"),
	}
}

// pluginsTo gives a configuration of the docker command its plugins.
func pluginsTo(t *testing.T, config string) {
	t.Helper()
	dir := filepath.Join(config, "cli-plugins")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(berthtest.Tool(t, "docker-buildx"), filepath.Join(dir, "docker-buildx")); err != nil {
		t.Fatal(err)
	}
}

// classic is the builder of the command without it.
func (h *host) classic(t *testing.T) *builder {
	t.Helper()
	return &builder{host: h, args: []string{"build"}, docker: h.Docker(t)}
}

// debian is the builder of Debian's command, which speaks to BuildKit by the
// request of the builder before it and a session.
func (h *host) debian(t *testing.T) *builder {
	t.Helper()
	return &builder{
		host: h, args: []string{"build", "--progress", "plain"},
		docker: berthtest.NewCommand(t, "env", "/usr/bin/docker", "--config", t.TempDir(), "--host", h.Host()).Env("DOCKER_BUILDKIT=1", "SECRET=quiet"),
	}
}

// context makes a context: names of files, each with its content. IMAGE in one is
// an image of the registry that has a shell.
func (b *builder) context(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(dir, pairs[i])
		content := strings.ReplaceAll(pairs[i+1], "IMAGE", b.image("busybox"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// try builds, and returns what is said on both outputs.
func (b *builder) try(t *testing.T, args ...string) (said string, err error) {
	t.Helper()
	out, errs, err := b.docker.Try(slices.Concat(b.args, args)...)
	return out + errs, err
}

func (b *builder) build(t *testing.T, args ...string) (said string) {
	t.Helper()
	said, err := b.try(t, args...)
	if err != nil {
		t.Fatalf("build %v: %v\n%s", args, err, said)
	}
	return said
}

// inputs builds with a text as the command's standard input.
func (b *builder) inputs(t *testing.T, text string, args ...string) {
	t.Helper()
	with := *b
	with.docker = b.docker.Input(strings.ReplaceAll(text, "IMAGE", b.image("busybox")))
	with.build(t, args...)
}

// refuses builds what is to fail for a reason.
func (b *builder) refuses(t *testing.T, why string, args ...string) (said string) {
	t.Helper()
	said, err := b.try(t, args...)
	if err == nil || !strings.Contains(said, why) {
		t.Errorf("build %v: %v, and not for %q:\n%s", args, err, why, said)
	}
	return said
}

// says runs the docker command of the host, and plugin that which has buildx.
func (b *builder) says(t *testing.T, args ...string) string {
	t.Helper()
	return said(t, b.host.docker, args...)
}

func (b *builder) plugin(t *testing.T, args ...string) string {
	t.Helper()
	return said(t, b.docker, args...)
}

func said(t *testing.T, docker *berthtest.Command, args ...string) string {
	t.Helper()
	out, errs, err := docker.Try(args...)
	if err != nil {
		t.Fatalf("docker %v: %v\n%s%s", args, err, out, errs)
	}
	return out
}

// prints compares what a command prints in a container of an image.
func (b *builder) prints(t *testing.T, image, want string, command ...string) {
	t.Helper()
	got := strings.TrimSpace(b.says(t, append([]string{"run", "--rm", image}, command...)...))
	if got != want {
		t.Errorf("%s of %s prints %q, want %q", command, image, got, want)
	}
}

// words has what only the builder before BuildKit says, as programs read it.
func (b *builder) words(t *testing.T) {
	t.Run("words", func(t *testing.T) {
		dir := b.context(t, "Dockerfile", "# syntax=nowhere.example/frontend\nFROM IMAGE\nENV A=b\nRUN echo said $A\nCMD [\"x\"]\n")
		said := b.build(t, "-t", "words", dir)
		id := strings.TrimPrefix(strings.TrimSpace(b.says(t, "image", "inspect", "-f", "{{.Id}}", "words")), "sha256:")[:12]
		at := 0
		for _, want := range []string{
			"Step 1/4 : FROM " + b.image("busybox"), " ---> ", "Step 2/4 : ENV A=b", " ---> ", "Step 3/4 : RUN echo said $A", " ---> Running in ", "\nsaid b\n",
			" ---> Removed intermediate container ", " ---> ", "Step 4/4 : CMD [\"x\"]\n ---> " + id, "\nSuccessfully built " + id + "\nSuccessfully tagged words:latest\n",
		} {
			i := strings.Index(said[at:], want)
			if i < 0 {
				t.Fatalf("%q is not said after the rest:\n%s", want, said)
			}
			at += i + len(want)
		}
		if said := b.build(t, dir); strings.Count(said, " ---> Using cache\n") != 1 {
			t.Errorf("the second time:\n%s", said)
		}
		if said := b.build(t, b.context(t, "Dockerfile", "FROM "+b.image("layers")+"\n")); strings.Count(said, ": Pull complete\n") < 2 {
			t.Errorf("of a base image that comes:\n%s", said)
		}
		if said := b.build(t, "-q", dir); !strings.HasPrefix(said, "sha256:"+id) {
			t.Errorf("quiet:\n%s", said)
		}
		b.refuses(t, "The command '/bin/sh -c exit 7' returned a non-zero code: 7", b.context(t, "Dockerfile", "FROM IMAGE\nRUN exit 7\n"))
	})
}

// sameSecond changes a file and leaves its size and its time: what comes as an
// archive, whose times are seconds, is compared by its content.
func (b *builder) sameSecond(t *testing.T) {
	t.Run("a change within a second", func(t *testing.T) {
		dir := b.context(t, "Dockerfile", "FROM IMAGE\nCOPY f /f\nCMD [\"cat\", \"/f\"]\n")
		at := time.Now().Add(-time.Minute)
		for _, content := range []string{"1", "2"} {
			path := filepath.Join(dir, "f")
			if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, at, at)); err != nil {
				t.Fatal(err)
			}
			b.build(t, "-t", "second", dir)
			if got := b.says(t, "run", "--rm", "second"); got != content {
				t.Errorf("the image has %q, want %q", got, content)
			}
		}
	})
}
