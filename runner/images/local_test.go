package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

func TestParseRef(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for _, c := range [][4]string{ // default registry, given, full, familiar
		{"", "mongo", "docker.io/library/mongo:latest", "mongo:latest"},
		{"", "mongo:7", "docker.io/library/mongo:7", "mongo:7"},
		{"", "a/b", "docker.io/a/b:latest", "a/b:latest"},
		{"", "localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"},
		{"", "a@sha256:" + hex, "docker.io/library/a@sha256:" + hex, "a@sha256:" + hex},
		{"localhost:5000", "mongo", "localhost:5000/mongo:latest", "mongo:latest"},
		{"localhost:5000", "a/b:1", "localhost:5000/a/b:1", "a/b:1"},
		{"localhost:5000", "docker.io/library/mongo", "localhost:5000/mongo:latest", "mongo:latest"},
		{"localhost:5000", "docker.io/a/b:1", "localhost:5000/a/b:1", "a/b:1"},
		{"localhost:5000", "registry-1.docker.io/library/mongo", "registry-1.docker.io/library/mongo:latest", "registry-1.docker.io/library/mongo:latest"},
		{"localhost:5000", "quay.io/a:b", "quay.io/a:b", "quay.io/a:b"},
		{"localhost:5000", "localhost/a", "localhost/a:latest", "localhost/a:latest"},
		{"localhost:5000", "localhost:5000/x.y/z", "localhost:5000/x.y/z:latest", "localhost:5000/x.y/z:latest"},
	} {
		s := &Store{opts: Options{DefaultRegistry: c[0]}}
		ref, err := s.ParseRef(c[1])
		if err != nil || ref.String() != c[2] || s.Familiar(ref) != c[3] {
			t.Errorf("%q: %v, %v; want %s, %s", c[1], ref, err, c[2], c[3])
			continue
		}
		if again, err := s.ParseRef(s.Familiar(ref)); err != nil || again.String() != c[2] {
			t.Errorf("%q: its short form is %v, %v", c[1], again, err)
		}
	}
	s := &Store{}
	for _, bad := range []string{"", "UPPER", "a b", "a:b:c", "-a", hex} {
		if _, err := s.ParseRef(bad); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// localImage imports an image of one file.
func (s *testStore) localImage(t *testing.T, name, body string, changes ...string) string {
	t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	id, err := s.Import(t.Context(), runner.ImportRequest{Repo: repo, Tag: tag, Changes: changes}, bytes.NewReader(layerTarOf(t, ent{name: "file", body: body})), nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFind(t *testing.T) {
	s := newStore(t)
	one := s.localImage(t, "one:1", "1")
	hex := strings.TrimPrefix(one, "sha256:")
	for _, ref := range []string{"one:1", "docker.io/library/one:1", one, hex, hex[:12], one[:20], hex[:5]} {
		if img, err := s.Get(t.Context(), ref); err != nil || img.ID != one {
			t.Errorf("%s: %v, %v", ref, img.ID, err)
		}
	}
	for ref, want := range map[string]string{
		"one": "one:latest", "two:1": "two:1", "sha256:" + strings.Repeat("0", 64): "sha256:" + strings.Repeat("0", 64), "localhost:5000/a": "localhost:5000/a:latest",
	} {
		if _, err := s.Get(t.Context(), ref); !errors.Is(err, runner.ErrNotFound) || err.Error() != "No such image: "+want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	seen := map[string]bool{hex[:1]: true} // until a prefix of one digit is that of two
	for i := 0; ; i++ {
		id := strings.TrimPrefix(s.localImage(t, "", strings.Repeat("x", i)), "sha256:")
		if seen[id[:1]] {
			if _, err := s.Get(t.Context(), id[:1]); !errors.Is(err, runner.ErrNotFound) {
				t.Errorf("%s is of two images: %v", id[:1], err)
			}
			break
		}
		seen[id[:1]] = true
	}
}

func TestTagMoves(t *testing.T) {
	s := newStore(t)
	one, two := s.localImage(t, "one", "1"), s.localImage(t, "two", "2")
	if err := s.Tag(t.Context(), "two", "localhost:5000/one", "v1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), "two", "one", ""); err != nil {
		t.Fatal(err)
	}
	img, err := s.Inspect(t.Context(), two, "", false)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "tags", img.RepoTags, []string{"one:latest", "two:latest", "localhost:5000/one:v1"})
	list, err := s.List(t.Context(), runner.ImageListOptions{Filters: runner.Filters{"dangling": {"true"}}}, nil)
	if err != nil || len(list) != 1 || list[0].ID != one || list[0].RepoTags == nil || len(list[0].RepoTags) != 0 {
		t.Error(list, err)
	}
	for _, bad := range [][2]string{{"one@sha256:" + strings.Repeat("0", 64), ""}, {"UP", ""}, {"one", "-"}} {
		if err := s.Tag(t.Context(), "two", bad[0], bad[1]); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if err := s.Tag(t.Context(), "three", "x", ""); !errors.Is(err, runner.ErrNotFound) {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	s := newStore(t)
	ids := map[string]string{s.localImage(t, "a/one:v1", "1", "LABEL x=1 y=2"): "one", s.localImage(t, "two", "2", "LABEL x=2"): "two", s.localImage(t, "", "3"): "none"}
	reg := newRegistry()
	pulled := reg.addImage(t, "r.test/old:latest", nil, layerTarOf(t, ent{name: "f", body: "12345"}))
	s.pull(t, reg, "r.test/old")
	ids[pulled.id.String()] = "old"
	for filter, want := range map[string]string{
		`{}`: "none two one old", `{"dangling":["true"]}`: "none", `{"dangling":["false"]}`: "two one old",
		`{"reference":["two"]}`: "two", `{"reference":["a/*"]}`: "one", `{"reference":["*/*:v1"]}`: "one", `{"reference":["tw*","r.test/*"]}`: "two old",
		`{"label":["x"]}`: "two one", `{"label":["x=1"]}`: "one", `{"label":["x","y"]}`: "one", `{"label!":["y"]}`: "none two old",
		`{"before":["two"]}`: "one old", `{"since":["a/one:v1"]}`: "none two", `{"until":["2025-01-01"]}`: "old", `{"until":["1h"]}`: "old",
	} {
		var f runner.Filters
		if err := json.Unmarshal([]byte(filter), &f); err != nil {
			t.Fatal(err)
		}
		list, err := s.List(t.Context(), runner.ImageListOptions{Filters: f}, nil)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		}
		var got []string
		for _, sum := range list {
			got = append(got, ids[sum.ID])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
	for _, f := range []runner.Filters{{"dangling": {"maybe"}}, {"color": {"red"}}, {"until": {"then"}}} {
		if _, err := s.List(t.Context(), runner.ImageListOptions{Filters: f}, nil); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%v: %v", f, err)
		}
	}
	list, err := s.List(t.Context(), runner.ImageListOptions{Manifests: true, Filters: runner.Filters{"reference": {"r.test/old"}}}, func() map[string]int { return map[string]int{pulled.id.String(): 4} })
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	got := list[0]
	if got.Size != 5 || got.Containers != 4 || got.SharedSize != -1 || got.Created != testTime.Unix() || got.Descriptor.Digest != pulled.manifest.Digest || got.Manifests[0].ImageData.Size.Unpacked != 5 {
		t.Errorf("%+v", got)
	}
	equal(t, "digests", got.RepoDigests, []string{"r.test/old@" + pulled.manifest.Digest.String()})
}

func TestHistory(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	img := reg.addImage(t, "r.test/x:latest", func(c *ocispec.Image) {
		c.History = slices.Insert(c.History, 1, ocispec.History{CreatedBy: "ENV a=b", EmptyLayer: true})
	}, layerTarOf(t, ent{name: "f", body: "12345"}), layerTarOf(t, ent{name: "g", body: "1"}))
	s.pull(t, reg, "r.test/x")
	list, err := s.History(t.Context(), "r.test/x", "")
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	if list[0].ID != img.id.String() || list[0].Size != 1 || list[1].Size != 0 || list[2].Size != 5 || list[2].ID != "<missing>" || list[2].CreatedBy != "ADD layer 0" || list[0].Tags[0] != "r.test/x:latest" {
		t.Errorf("%+v", list)
	}
}

func TestRemove(t *testing.T) {
	running := []User{{ContainerID: strings.Repeat("c", 64), Running: true}}
	stopped := []User{{ContainerID: strings.Repeat("d", 64)}}
	type step struct {
		ref   string
		force bool
		users []User
		want  string // what is untagged and deleted, or the error
	}
	for name, c := range map[string]struct {
		tags  []string
		steps []step
	}{
		"last name":              {[]string{"a"}, []step{{"a", false, nil, "-a:latest ID layers"}, {"a", false, nil, "No such image: a:latest"}}},
		"one of two":             {[]string{"a", "b"}, []step{{"a", false, running, "-a:latest"}, {"b", false, nil, "-b:latest ID layers"}}},
		"name in use":            {[]string{"a"}, []step{{"a", false, stopped, `conflict: unable to remove repository reference "a" (must force) - container dddddddddddd is using its referenced image SHORT`}}},
		"name, forced, running":  {[]string{"a"}, []step{{"a", true, running, "-a:latest"}, {"ID", false, nil, "ID layers"}}},
		"name, forced, stopped":  {[]string{"a"}, []step{{"a", true, stopped, "-a:latest ID"}}},
		"ID":                     {[]string{"a"}, []step{{"ID", false, nil, "-a:latest ID layers"}}},
		"short ID":               {[]string{"a"}, []step{{"SHORT", false, nil, "-a:latest ID layers"}}},
		"ID of two repositories": {[]string{"a", "b"}, []step{{"ID", false, nil, "conflict: unable to delete SHORT (must be forced) - image is referenced in multiple repositories"}, {"ID", true, nil, "-a:latest -b:latest ID layers"}}},
		"ID, running":            {[]string{"a"}, []step{{"ID", true, running, "conflict: unable to delete SHORT (cannot be forced) - image is being used by running container cccccccccccc"}}},
		"ID, stopped":            {[]string{"a"}, []step{{"ID", false, stopped, "conflict: unable to delete SHORT (must be forced) - image is being used by stopped container dddddddddddd"}, {"ID", true, stopped, "-a:latest ID"}}},
		"absent":                 {nil, []step{{"nothing", true, nil, "No such image: nothing:latest"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			id := s.localImage(t, "", name)
			for _, tag := range c.tags {
				if err := s.Tag(t.Context(), id, tag, ""); err != nil {
					t.Fatal(err)
				}
			}
			short := shortID(id)
			for _, st := range c.steps {
				ref := map[string]string{"ID": id, "SHORT": short}[st.ref]
				if ref == "" {
					ref = st.ref
				}
				list, err := s.Remove(t.Context(), ref, runner.ImageRemoveOptions{Force: st.force}, func(string) []User { return st.users })
				var got []string
				for _, r := range list {
					switch {
					case r.Untagged != "":
						got = append(got, "-"+r.Untagged)
					case r.Deleted == id:
						got = append(got, "ID")
					default:
						got = append(got, "layers")
					}
				}
				text := strings.Join(got, " ")
				if err != nil {
					text = err.Error()
				}
				if want := strings.ReplaceAll(st.want, "SHORT", short); text != want {
					t.Errorf("%s: %s\nwant %s", st.ref, text, want)
				}
				if err != nil && !errors.Is(err, runner.ErrConflict) && !errors.Is(err, runner.ErrNotFound) {
					t.Errorf("%v is of no kind", err)
				}
			}
		})
	}
}

// TestRemovedImageLivesOn keeps what stopped containers need of an image that is
// removed by force, over a restart, until they are gone.
func TestRemovedImageLivesOn(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	s := openStore(t, root, Limits{})
	id := s.localImage(t, "a", "1")
	user := func(string) []User { return []User{{ContainerID: "c"}} }
	if _, err := s.Remove(t.Context(), id, runner.ImageRemoveOptions{Force: true}, user); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = openStore(t, root, Limits{})
	if _, err := s.Get(t.Context(), id); !errors.Is(err, runner.ErrNotFound) {
		t.Error("it is still an image")
	}
	if list := s.all(); len(list) != 0 {
		t.Error("it is listed")
	}
	if lower, err := s.Layers(t.Context(), id); err != nil || len(lower) != 1 {
		t.Error(lower, err)
	}
	if _, err := s.Hold(id); err == nil {
		t.Error("a new container gets it")
	}
	if err := s.Sweep(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 1, 3)
	if err := s.Sweep(t.Context(), func(string) []User { return nil }); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 0, 0)
}

// TestHold removes an image while a container is being made of it.
func TestHold(t *testing.T) {
	s := newStore(t)
	id := s.localImage(t, "a", "1")
	release, err := s.Hold(id)
	if err != nil {
		t.Fatal(err)
	}
	none := func(string) []User { return nil }
	if _, err := s.Remove(t.Context(), "a", runner.ImageRemoveOptions{}, none); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 1, 3)
	release()
	if err := s.Sweep(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 0, 0)
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	used, free := s.localImage(t, "", "used"), s.localImage(t, "", "12345")
	s.localImage(t, "tagged", "123")
	users := func(id string) []User {
		if id == used {
			return []User{{ContainerID: "c"}}
		}
		return nil
	}
	report, err := s.Prune(t.Context(), runner.Filters{}, users)
	if err != nil || len(report.ImagesDeleted) != 2 || report.ImagesDeleted[0] != (image.DeleteResponse{Deleted: free}) || report.SpaceReclaimed != 5 {
		t.Error(report, err)
	}
	if report, err = s.Prune(t.Context(), runner.Filters{"dangling": {"false"}, "label": {"none"}}, users); err != nil || len(report.ImagesDeleted) != 0 {
		t.Error(report, err)
	}
	if report, err = s.Prune(t.Context(), runner.Filters{"dangling": {"false"}}, users); err != nil || len(report.ImagesDeleted) != 3 || report.ImagesDeleted[0].Untagged != "tagged:latest" || report.SpaceReclaimed != 3 {
		t.Error(report, err)
	}
	s.wantFiles(t, 1, 3)
	if _, err = s.Prune(t.Context(), runner.Filters{"x": {"y"}}, users); !errors.Is(err, runner.ErrInvalid) {
		t.Error(err)
	}
}

func TestImport(t *testing.T) {
	s := newStore(t)
	archive := layerTarOf(t, ent{name: "./"}, ent{name: "etc/"}, ent{name: "etc/passwd", body: "root"})
	var xz bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "xz", "-c")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(archive), &xz
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"plain": archive, "gzip": gz(t, archive), "xz": xz.Bytes()} {
		msgs := &messages{}
		id, err := s.Import(t.Context(), runner.ImportRequest{Repo: "imported", Tag: name, Message: "hello", Changes: []string{`CMD ["cat"]`, "EXPOSE 80"}, Platform: "linux/arm64"}, bytes.NewReader(b), msgs.progress)
		if err != nil {
			t.Fatal(name, err)
		}
		img, err := s.Inspect(t.Context(), "imported:"+name, "", false)
		if err != nil || img.ID != id || img.Comment != "hello" || img.Architecture != "arm64" || img.Config.Cmd[0] != "cat" || img.RootFS.Layers[0] != digest.FromBytes(archive).String() {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
		if _, ok := img.Config.ExposedPorts["80/tcp"]; !ok {
			t.Error(img.Config)
		}
		equal(t, "files", listing(t, s.mounted(t, id)), []string{"etc drwxr-xr-x", "etc/passwd -rw-r--r-- root"})
	}
	for _, bad := range []runner.ImportRequest{{Repo: "UP"}, {Changes: []string{"RUN x"}}, {Platform: "windows"}} {
		if _, err := s.Import(t.Context(), bad, bytes.NewReader(archive), nil); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := s.Import(t.Context(), runner.ImportRequest{}, strings.NewReader("this is no archive of files, but it is long enough: "+strings.Repeat("x", 2000)), nil); !errors.Is(err, runner.ErrInvalid) {
		t.Error(err)
	}
}

// TestCommit makes an image of what a real overlayfs has in its upper directory.
func TestCommit(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	reg.addImage(t, "r.test/x:latest", func(c *ocispec.Image) { c.Config.Labels = map[string]string{"a": "b"} }, threeLayers(t)...)
	base, _ := s.pull(t, reg, "r.test/x")
	lower, _ := s.Layers(t.Context(), base)
	upper, work, merged := t.TempDir(), t.TempDir(), t.TempDir()
	if err := unix.Mount("overlay", merged, "overlay", 0, "index=off,redirect_dir=off,metacopy=off,lowerdir="+strings.Join(lower, ":")+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	script := `set -e; cd "$0"
rm data/kept; rm -r opaque; mkdir opaque; echo new >opaque/file; echo two >bin/new; ln bin/new bin/newer; ln -s x link
mkfifo fifo; chmod 2755 data; chown 3:4 bin/new; mkdir -p mnt/point; : >hosts; touch -d @1000000000 bin/new`
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script, merged).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := unix.Setxattr(filepath.Join(merged, "bin/new"), "user.x", []byte("y"), 0); err != nil {
		t.Error(err)
	}
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrUnix{Name: filepath.Join(merged, "s")})
	}
	if err != nil {
		t.Error(err)
	}
	_ = unix.Close(l)
	want := slices.DeleteFunc(listing(t, merged), func(line string) bool {
		return strings.HasPrefix(line, "s ") || strings.HasPrefix(line, "hosts ") || strings.HasPrefix(line, "mnt/point ")
	})
	if err := unix.Unmount(merged, 0); err != nil {
		t.Fatal(err)
	}
	id, err := s.Commit(t.Context(), Commit{
		Base: base, ContainerID: "abc", Upper: upper, Lower: lower, Skip: []string{"/hosts", "/mnt/point"}, Repo: "made", Tag: "t", Author: "me", Comment: "why",
		Config: &container.Config{Cmd: []string{"run", "it"}, Env: []string{"A=b"}, Labels: map[string]string{"c": "d"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.mounted(t, id)
	equal(t, "files", listing(t, dir), want)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "bin/newer"), &st); err != nil || st.Nlink != 2 || st.Uid != 3 || st.Gid != 4 || st.Mtim.Sec != 1000000000 {
		t.Error(st, err)
	}
	if v, err := xattr(filepath.Join(dir, "bin/new"), "user.x"); err != nil || string(v) != "y" {
		t.Error(string(v), err)
	}
	img, err := s.Inspect(t.Context(), "made:t", "", false)
	if err != nil || img.Author != "me" || img.Comment != "why" || len(img.RootFS.Layers) != 4 || img.Config.Labels["c"] != "d" || img.Config.Labels["a"] != "" {
		t.Errorf("%+v, %v", img, err)
	}
	h, err := s.History(t.Context(), "made:t", "")
	if err != nil || len(h) != 4 || h[0].CreatedBy != "run it" || h[0].Size != int64(len("new\ntwo\n")) {
		t.Errorf("%+v, %v", h, err)
	}
	// Nothing has changed but mount points: no layer.
	for _, e := range []string{"opaque", "bin", "link", "fifo", "s", "data"} {
		if err := os.RemoveAll(filepath.Join(upper, e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(upper, "mnt")); err != nil {
		t.Fatal(err)
	}
	id, err = s.Commit(t.Context(), Commit{Base: base, Upper: upper, Lower: lower, Skip: []string{"/hosts"}, Config: &container.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err := s.Inspect(t.Context(), id, "", false); err != nil || len(img.RootFS.Layers) != 3 {
		t.Errorf("%+v, %v", img, err)
	}
	if _, err := s.Commit(t.Context(), Commit{Base: "sha256:" + strings.Repeat("0", 64), Upper: upper, Config: &container.Config{}}); !errors.Is(err, runner.ErrNotFound) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(upper, ".wh.x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), Commit{Base: base, Upper: upper, Config: &container.Config{}}); !errors.Is(err, runner.ErrPrecondition) {
		t.Error(err)
	}
}

func TestSaveLoad(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	img := reg.addImage(t, "r.test/x:v1", nil, threeLayers(t)...)
	id, _ := s.pull(t, reg, "r.test/x:v1")
	want := listing(t, s.mounted(t, id))
	local := s.localImage(t, "one", "1")
	if err := s.Tag(t.Context(), "one", "one", "v2"); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Save(t.Context(), []string{"r.test/x:v1", "one"}, nil, &b); err != nil {
		t.Fatal(err)
	}
	var unpacked bytes.Buffer // as docker saves: layers are not packed
	repack(t, &unpacked, b.Bytes())
	for name, archive := range map[string][]byte{"own": b.Bytes(), "gzip": gz(t, b.Bytes()), "unpacked": unpacked.Bytes()} {
		t.Run(name, func(t *testing.T) {
			into, msgs := newStore(t), &messages{}
			if err := into.Load(t.Context(), bytes.NewReader(archive), false, msgs.progress); err != nil {
				t.Fatal(err)
			}
			var loaded []string
			for _, l := range msgs.lines {
				if strings.HasPrefix(l, "Loaded") {
					loaded = append(loaded, l)
				}
			}
			equal(t, "messages", loaded, []string{"Loaded image: r.test/x:v1", "Loaded image: one:latest", "Loaded image: one:v2"})
			got, err := into.Get(t.Context(), "r.test/x:v1")
			if err != nil || got.ID != id {
				t.Fatal(got, err)
			}
			if name != "unpacked" && got.Manifest.Digest != img.manifest.Digest {
				t.Error("it has another manifest")
			}
			equal(t, "files", listing(t, into.mounted(t, id)), want)
			if got, err := into.Get(t.Context(), "one"); err != nil || got.ID != local {
				t.Error(got, err)
			}
			if err := into.Load(t.Context(), bytes.NewReader(archive), true, nil); err != nil {
				t.Error("again:", err)
			}
			into.wantFiles(t, 4, 4+2*2)
		})
	}
	other := s.localImage(t, "one", "2") // takes the name
	msgs := &messages{}
	if err := s.Load(t.Context(), &b, true, msgs.progress); err != nil || msgs.count("The image one:latest already exists, renaming the old one with ID "+other+" to empty string") != 1 {
		t.Error(err, msgs.lines)
	}
	for _, bad := range []string{"", "not a tar", string(layerTarOf(t, ent{name: "x"}))} {
		if err := s.Load(t.Context(), strings.NewReader(bad), true, nil); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if err := s.Save(t.Context(), []string{"none"}, nil, io.Discard); !errors.Is(err, runner.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Save(t.Context(), []string{"one"}, []string{"linux/s390x"}, io.Discard); !errors.Is(err, runner.ErrNotFound) {
		t.Error(err)
	}
}

// repack writes a saved archive again as the docker of old had it: without an OCI
// layout, and with unpacked layers.
func repack(t *testing.T, w io.Writer, saved []byte) {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(saved)); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[hdr.Name], _ = io.ReadAll(tr)
	}
	var entries []archived
	if err := json.Unmarshal(files["manifest.json"], &entries); err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(w)
	put := func(name string, b []byte) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write(b)
	}
	for i := range entries {
		config := digest.FromBytes(files[entries[i].Config]).Encoded() + ".json"
		put(config, files[entries[i].Config])
		entries[i].Config = config
		for j, l := range entries[i].Layers {
			r, err := gzip.NewReader(bytes.NewReader(files[l]))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			name := digest.FromBytes(plain).Encoded() + "/layer.tar"
			put(name, plain)
			entries[i].Layers[j] = name
		}
	}
	b, _ := json.Marshal(entries)
	put("manifest.json", b)
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestForeignArchives exchanges archives with skopeo, in each of its formats.
func TestForeignArchives(t *testing.T) {
	s := newStore(t)
	id := s.localImage(t, "one", "1")
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.tar")
	f, err := os.Create(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Save(t.Context(), []string{"one"}, nil, f), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"docker-archive:" + saved, "oci-archive:" + saved} {
		for _, to := range []string{"docker-archive", "oci-archive"} {
			out := filepath.Join(dir, to+".tar")
			_ = os.Remove(out)
			cmd := exec.CommandContext(t.Context(), "skopeo", "--insecure-policy", "--tmpdir", dir, "copy", from, to+":"+out+":example.org/copied:v1")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			into, msgs := newStore(t), &messages{}
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			err = into.Load(t.Context(), f, true, msgs.progress)
			_ = f.Close()
			if err != nil {
				t.Fatalf("%s → %s: %v", from, to, err)
			}
			equal(t, "messages", msgs.lines, []string{"Loaded image: example.org/copied:v1"})
			if to == "docker-archive" && strings.HasPrefix(from, "docker") {
				if got, err := into.Get(t.Context(), "example.org/copied:v1"); err != nil || got.ID != id {
					t.Errorf("%s → %s: %v, %v, want %s", from, to, got.ID, err, id)
				}
			}
		}
	}
}

func TestExport(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	img := reg.addImage(t, "r.test/a/x:v1", nil, threeLayers(t)...)
	s.pull(t, reg, "r.test/a/x:v1")
	if err := s.Tag(t.Context(), "r.test/a/x:v1", "r.test/b", "v2"); err != nil {
		t.Fatal(err)
	}
	ref, _ := s.ParseRef("r.test/b:v2")
	out, err := s.Export(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	l := img.layers[0].Digest
	if out.Manifest.Digest != img.manifest.Digest || len(out.Blobs) != 4 || out.DiffIDs[l] != img.diffIDs[0] || len(out.MountFrom[l]) != 1 || out.MountFrom[l][0] != "a/x" {
		t.Errorf("%+v", out)
	}
	for _, r := range []string{"r.test/a/x:v1", "r.test/b:v2"} { // while it is being sent
		if _, err := s.Remove(t.Context(), r, runner.ImageRemoveOptions{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range append(out.Blobs, out.Manifest) {
		f, err := s.Open(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := digest.FromReader(f); err != nil || d != b.Digest {
			t.Error(d, err)
		}
		_ = f.Close()
	}
	out.Release()
	s.pull(t, reg, "r.test/a/x:v1")
	if err := s.Tag(t.Context(), "r.test/a/x:v1", "r.test/b", "v2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Pushed(t.Context(), ref, out); err != nil {
		t.Fatal(err)
	}
	got, err := s.Inspect(t.Context(), "r.test/b@"+img.manifest.Digest.String(), "", false)
	if err != nil || !slices.Contains(got.RepoDigests, "r.test/b@"+img.manifest.Digest.String()) {
		t.Error(got.RepoDigests, err)
	}
	tags, err := s.TagsOf(t.Context(), ref)
	if err != nil || len(tags) != 1 || tags[0].Tag() != "v2" {
		t.Error(tags, err)
	}
	absent, _ := s.ParseRef("r.test/c")
	if _, err := s.Export(t.Context(), absent, ""); err == nil || err.Error() != "An image does not exist locally with the tag: r.test/c" {
		t.Error(err)
	}
}
