package runner

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// TestBuildSources has what a build is made of come from where somebody wants to
// know who asks, from a repository, and from archives of all kinds; and several
// builds of the same.
func TestBuildSources(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	both := map[string]*builder{"buildx": h.buildx(t), "classic": h.classic(t)}
	t.Run("credentials", func(t *testing.T) { h.buildsGuarded(t, both) })
	t.Run("git", func(t *testing.T) { h.buildsGit(t, both["buildx"]) })
	t.Run("archives", h.buildsArchives)
	t.Run("limits", func(t *testing.T) { limitsMemory(t, both["classic"]) })
	t.Run("at once", func(t *testing.T) { buildsAtOnce(t, both) })
}

// buildsGuarded has base images in a registry with accounts.
func (h *host) buildsGuarded(t *testing.T, both map[string]*builder) {
	guarded := guardedRegistry(t, h.Machine)
	seed(t, h.Machine, guarded, "REGISTRY_USER=someone", "REGISTRY_PASS=correct horse")
	for name, b := range both {
		dir := b.context(t, "Dockerfile", "FROM "+guarded+"/seedtest/busybox\nRUN echo guarded >/f\n")
		b.refuses(t, "401 Unauthorized", dir)
		b.plugin(t, "login", "-u", "someone", "-p", "correct horse", guarded)
		b.build(t, "-t", "guarded"+name, dir)
		b.prints(t, "guarded"+name, "guarded", "cat", "/f")
		b.plugin(t, "logout", guarded)
		// What has come is there for all of the host, as with docker.
		b.says(t, "rmi", "guarded"+name)
		b.plugin(t, "builder", "prune", "-a", "-f")
	}
}

// buildsGit has a context that git serves.
func (h *host) buildsGit(t *testing.T, b *builder) {
	dir := b.context(t, "sub/Dockerfile", "FROM IMAGE\nCOPY f /f\n", "sub/f", "of the branch")
	git := berthtest.NewCommand(t, "git", "-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.com")
	for _, args := range []string{"init -q -b branch", "add .", "commit -q -m x", "config --local uploadpack.allowAnySHA1InWant true"} {
		git.Run(strings.Fields(args)...)
	}
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	berthtest.NewCommand(t, "git").On(h.Machine).Daemon(func() error {
		conn, err := h.Machine.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			err = conn.Close()
		}
		return err
	}, "daemon", "--export-all", "--base-path="+dir, "--listen=127.0.0.1", "--port="+port, dir)
	url := "git://127.0.0.1:" + port + "/.git#branch:sub"
	b.build(t, "-t", "git:1", url)
	b.prints(t, "git:1", "of the branch", "cat", "/f")
	// The command fetches for the builder before BuildKit; other clients do not.
	said, err := h.buildArchive(t, nil, client.ImageBuildOptions{RemoteContext: url, Tags: []string{"git:2"}, Remove: true})
	if err != nil || !strings.Contains(said, "COPY f /f") || !strings.Contains(said, "Successfully tagged git:2") {
		t.Errorf("%v\n%s", err, said)
	}
	b.prints(t, "git:2", "of the branch", "cat", "/f")
}

// buildArchive sends a context, and returns what is said.
func (h *host) buildArchive(t *testing.T, context []byte, o client.ImageBuildOptions) (said string, err error) {
	t.Helper()
	resp, err := h.api.ImageBuild(t.Context(), bytes.NewReader(context), o)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// buildsArchives has contexts that reach out of themselves: nothing outside is read
// or written.
func (h *host) buildsArchives(t *testing.T) {
	const outside = "/run/outside"
	if err := os.WriteFile(h.Machine.Path(outside), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	dockerfile := "FROM " + h.image("busybox") + "\nCOPY . /ctx\nRUN find /ctx -type f | xargs cat >/all\n"
	link := func(name, to string, kind byte) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o644}
	}
	file := func(name, _ string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	for i, entries := range [][]tar.Header{
		{file("../../../../../../run/outside", "")},
		{file("/run/outside", "")},
		{link("l", "/run", tar.TypeSymlink), file("l/outside", "")},
		{link("l", "../../../../../../../../run", tar.TypeSymlink), file("l/outside", "")},
		{link("l", outside, tar.TypeLink)},
		{link("l", "../../../../../../../.."+outside, tar.TypeLink)},
		{link("l", outside, tar.TypeSymlink)},
		{link("l", outside, tar.TypeSymlink), file("l", "")},
		{link("a", "b", tar.TypeSymlink), link("b", "a", tar.TypeSymlink), file("a/f", "")},
		{{Name: "dev", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8}},
		{{Name: strings.Repeat("d/", 5000), Typeflag: tar.TypeDir, Mode: 0o755}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, hdr := range append([]tar.Header{file("Dockerfile", "")}, entries...) {
			content := "of the context"
			if hdr.Name == "Dockerfile" {
				content = dockerfile
			}
			if hdr.Typeflag != tar.TypeReg {
				content = ""
			}
			hdr.Size = int64(len(content))
			if err := w.WriteHeader(&hdr); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
		name := fmt.Sprintf("hostile:%d", i)
		said, err := h.buildArchive(t, b.Bytes(), client.ImageBuildOptions{Tags: []string{name}, Remove: true})
		if err == nil && strings.Contains(said, "Successfully tagged") {
			if all, _, err := h.docker.Try("run", "--rm", name, "cat", "/all"); err != nil || strings.Contains(all, "outside") {
				t.Errorf("%v: the image has %q: %v", entries, all, err)
			}
		}
		if got, err := os.ReadFile(h.Machine.Path(outside)); string(got) != "outside" || err != nil {
			t.Fatalf("%v: outside is %q: %v", entries, got, err)
		}
	}
}

// limitsMemory has a step take more than it may.
func limitsMemory(t *testing.T, b *builder) {
	dir := b.context(t, "Dockerfile", "FROM IMAGE\nRUN head -c 100m /dev/zero | tail -c 100m >/dev/null\n")
	b.build(t, dir)
	b.refuses(t, "returned a non-zero code: 137", "--no-cache", "--memory", "32m", "--memory-swap", "32m", dir)
}

// buildsAtOnce has the same built several times at once: each step runs once.
func buildsAtOnce(t *testing.T, both map[string]*builder) {
	dir := both["buildx"].context(t, "Dockerfile", "FROM IMAGE\nRUN sleep 0.5; cat /proc/sys/kernel/random/uuid >/uuid\n")
	var wg sync.WaitGroup
	for name, b := range both {
		for i := range 2 {
			wg.Go(func() {
				if said, err := b.try(t, "-t", fmt.Sprintf("once%s:%d", name, i), dir); err != nil {
					t.Errorf("%v\n%s", err, said)
				}
			})
		}
	}
	wg.Wait()
	uuids := map[string]bool{}
	for name, b := range both {
		for i := range 2 {
			uuids[b.says(t, "run", "--rm", fmt.Sprintf("once%s:%d", name, i), "cat", "/uuid")] = true
		}
	}
	if len(uuids) != 1 {
		t.Errorf("the step has run %d times", len(uuids))
	}
}
