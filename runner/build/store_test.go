package build

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

func TestContents(t *testing.T) {
	root := t.TempDir()
	c, err := openContents(root)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const text = "the bytes of a blob"
	d := digest.FromString(text)
	w, err := c.Writer(ctx, content.WithRef("r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Writer(ctx, content.WithRef("r")); !errdefs.IsUnavailable(err) {
		t.Errorf("a second writer of the same: %v", err)
	}
	_, _ = io.WriteString(w, text[:5])
	_ = w.Close()
	// Another takes up what is there.
	if w, err = c.Writer(ctx, content.WithRef("r")); err != nil {
		t.Fatal(err)
	}
	if st, err := w.Status(); err != nil || st.Offset != 5 {
		t.Errorf("taken up at %d, %v", st.Offset, err)
	}
	_, _ = io.WriteString(w, text[5:])
	if err := w.Commit(ctx, 3, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("committed with another size: %v", err)
	}
	if w, err = c.Writer(ctx, content.WithRef("r")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, int64(len(text)), d); err != nil {
		t.Fatal(err)
	}
	if b, err := content.ReadBlob(ctx, c, ocispec.Descriptor{Digest: d, Size: int64(len(text))}); err != nil || string(b) != text {
		t.Errorf("it has %q, %v", b, err)
	}
	if _, err := c.Writer(ctx, content.WithRef("r2"), content.WithDescriptor(ocispec.Descriptor{Digest: d})); !errdefs.IsAlreadyExists(err) {
		t.Errorf("what is there is written again: %v", err)
	}
	// What is written beside it meanwhile is no error of the store's.
	if w, err = c.Writer(ctx, content.WithRef("r3")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "nonsense")
	if err := w.Truncate(0); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, text)
	if err := w.Commit(ctx, 0, d); !errdefs.IsAlreadyExists(err) {
		t.Errorf("what is there is committed again: %v", err)
	}
	if w, err = c.Writer(ctx, content.WithRef("r4")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, 0, d); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("committed by another's digest: %v", err)
	}
	if err := c.Abort(ctx, "r4"); err != nil {
		t.Error(err)
	}
	if list, err := c.ListStatuses(ctx); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	if list, err := os.ReadDir(filepath.Join(root, "ingest")); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

func TestTrust(t *testing.T) {
	root := t.TempDir()
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]bool{
		"1 " + boot: true, "1 on disk\n": true, "1 00000000-0000-0000-0000-000000000000": false, "": false, "0 on disk": false, "1 on di": false,
	} {
		if err := os.WriteFile(filepath.Join(root, stateFile), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := trust(root); err != nil || got != want {
			t.Errorf("state %q: trusted %v, %v", state, got, err)
		}
	}
	if got, err := trust(filepath.Join(root, "none")); err != nil || got {
		t.Errorf("without any: %v, %v", got, err)
	}
}

func TestGuard(t *testing.T) {
	root := t.TempDir()
	g, err := openGuard(root, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	state := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(root, stateFile)); err != nil || string(b) != "1 "+want+"\n" {
			t.Errorf("the state is %q, %v", b, err)
		}
	}
	done, err := g.use()
	if err != nil {
		t.Fatal(err)
	}
	g.sync() // somebody uses it
	state(g.boot)
	done()
	done()
	g.sync()
	state(onDisk)
	if _, err := g.use(); err != nil {
		t.Fatal(err)
	}
	state(g.boot)
}

func TestResolveLinks(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"one", "layers"} {
		if err := os.Mkdir(path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(path("layers"), path("two")); err != nil {
		t.Fatal(err)
	}
	got := resolve([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + path("one"), "lowerdir=" + path("two") + ":" + path("one")}}})
	upper, lower := treesOf(got)
	if upper != path("one") || !reflect.DeepEqual(lower, []string{path("layers"), path("one")}) {
		t.Errorf("the trees are %s and %v", upper, lower)
	}
	upper, lower = treesOf(resolve([]mount.Mount{{Type: "bind", Source: path("two"), Options: []string{"ro", "rbind"}}}))
	if upper != "" || !slices.Equal(lower, []string{path("layers")}) {
		t.Errorf("of one layer they are %q and %v", upper, lower)
	}
	if upper, lower := treesOf([]mount.Mount{{Type: "bind", Source: path("one"), Options: []string{"rw"}}}); upper != path("one") || lower != nil {
		t.Errorf("of the first layer they are %q and %v", upper, lower)
	}
}

// noImages is an image store that has none.
type noImages struct{ unshared []string }

func (*noImages) Image(context.Context, string) (Image, error) { return Image{}, runner.ErrNotFound }
func (*noImages) LinkBlob(digest.Digest, string) (bool, error) { return false, nil }
func (*noImages) ShareTree(digest.Digest, []string) string     { return "" }
func (n *noImages) Unshare(dir string)                         { n.unshared = append(n.unshared, dir) }
func (*noImages) Add(context.Context, Built) (string, error)   { return "", errors.New("no store") }

func TestOpenBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	images := &noImages{}
	o := Options{Root: filepath.Join(dir, "build"), Run: filepath.Join(dir, "run"), Runtime: "crun", Images: images, CgroupParent: "/berth-test-build", Log: slog.New(slog.DiscardHandler)}
	open := func(what string) {
		t.Helper()
		b, err := Open(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if list, err := b.DiskUsage(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("%s: it has %v, %v", what, list, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
		}
		if _, err := b.DiskUsage(t.Context()); !errors.Is(err, runner.ErrUnavailable) {
			t.Errorf("%s: when it is closed: %v", what, err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(o.Root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open("at first")
	open("again")
	for _, db := range []string{"containerd.db", "metadata_v2.db", "cache.db", "history.db", "snapshots/metadata.db"} {
		write(db, strings.Repeat("garbage ", 10_000))
		open(db + " is broken")
		if err := os.Truncate(filepath.Join(o.Root, db), int64(3*os.Getpagesize())); err != nil {
			t.Fatal(err)
		}
		open(db + " is cut")
	}
	if err := os.RemoveAll(filepath.Join(o.Root, "snapshots", "snapshots")); err != nil {
		t.Fatal(err)
	}
	write("snapshots/snapshots", "no directory")
	open("its snapshots cannot be read")
	write("state", "1 another-boot")
	fs := filepath.Join(o.Root, "snapshots", "snapshots", "7", "fs")
	if err := os.MkdirAll(filepath.Dir(fs), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, fs); err != nil {
		t.Fatal(err)
	}
	if links, err := Links(o.Root); err != nil || !slices.Equal(links, []string{dir}) {
		t.Errorf("its links are %v, %v", links, err)
	}
	open("the host lost its power")
	if !slices.Equal(images.unshared, []string{dir}) {
		t.Errorf("given back: %v", images.unshared)
	}
	if err := os.MkdirAll(filepath.Dir(fs), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", fs); err != nil {
		t.Fatal(err)
	}
	open("what it links to is gone")
	if _, err := os.Lstat(fs); !os.IsNotExist(err) {
		t.Errorf("the link is still there: %v", err)
	}
	if _, err := os.Stat(o.Run); !os.IsNotExist(err) {
		t.Errorf("the run directory is left: %v", err)
	}
}
