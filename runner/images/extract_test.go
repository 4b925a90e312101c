package images

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStack looks at what a mount shows of layers that hide, restore and imply,
// in whatever order their archives have it.
func TestStack(t *testing.T) {
	base := []ent{{name: "a/", mode: 0o700, uid: 5}, {name: "a/old", body: "1"}, {name: "b", body: "1"}, {name: "c/"}, {name: "c/x", body: "1"}}
	for name, c := range map[string]struct {
		layers [][]ent
		want   string
	}{
		"deleted":                         {[][]ent{{{name: ".wh.a"}, {name: ".wh.b"}}}, "c/ c/x=1"},
		"deleted then made anew":          {[][]ent{{{name: ".wh.a"}, {name: "a/"}, {name: "a/new", body: "2"}}}, "a/ a/new=2 b=1 c/ c/x=1"},
		"made anew then deleted":          {[][]ent{{{name: "a/"}, {name: "a/new", body: "2"}, {name: ".wh.a"}}}, "a/ a/new=2 b=1 c/ c/x=1"},
		"deleted then implied":            {[][]ent{{{name: ".wh.a"}, {name: "a/new", body: "2"}}}, "a/ a/new=2 b=1 c/ c/x=1"},
		"file deleted and made":           {[][]ent{{{name: "b", body: "2"}, {name: ".wh.b"}}}, "a/ a/old=1 b=2 c/ c/x=1"},
		"opaque first":                    {[][]ent{{{name: "a/.wh..wh..opq"}, {name: "a/new", body: "2"}}}, "a/ a/new=2 b=1 c/ c/x=1"},
		"opaque last":                     {[][]ent{{{name: "a/new", body: "2"}, {name: "a/.wh..wh..opq"}}}, "a/ a/new=2 b=1 c/ c/x=1"},
		"opaque root":                     {[][]ent{{{name: ".wh..wh..opq"}, {name: "new", body: "2"}}}, "new=2"},
		"opaque root in the middle":       {[][]ent{{{name: "m", body: "2"}, {name: "./.wh..wh..opq"}}, {{name: "n", body: "3"}}}, "m=2 n=3"},
		"directory by a file":             {[][]ent{{{name: "a", body: "2"}}}, "a=2 b=1 c/ c/x=1"},
		"file by a directory":             {[][]ent{{{name: "b/"}, {name: "b/n", body: "2"}}}, "a/ a/old=1 b/ b/n=2 c/ c/x=1"},
		"in one layer":                    {[][]ent{{{name: "n/"}, {name: "n/f", body: "2"}, {name: "n", body: "3"}, {name: "b", body: "2"}, {name: "b", body: "3"}}}, "a/ a/old=1 b=3 c/ c/x=1 n=3"},
		"implied in what a file replaces": {[][]ent{{{name: "n/f", body: "2"}, {name: "n", body: "3"}}}, "a/ a/old=1 b=1 c/ c/x=1 n=3"},
		"link to a layer below":           {[][]ent{{{name: "l", kind: '1', link: "c/x"}, {name: "l2", kind: '1', link: "l"}}}, "a/ a/old=1 b=1 c/ c/x=1 l=1 l2=1"},
		"link replaced":                   {[][]ent{{{name: "l", kind: '1', link: "c/x"}, {name: "l", body: "2"}}}, "a/ a/old=1 b=1 c/ c/x=1 l=2"},
		"link through a middle layer":     {[][]ent{{{name: "c/x", body: "2"}}, {{name: "l", kind: '1', link: "/c/x"}}}, "a/ a/old=1 b=1 c/ c/x=2 l=2"},
		"aufs":                            {[][]ent{{{name: ".wh..wh.plnk/"}, {name: ".wh..wh.plnk/1", body: "x"}, {name: ".wh..wh.aufs"}, {name: ".wh.b", kind: '1', link: ".wh..wh.aufs"}}}, "a/ a/old=1 c/ c/x=1"},
		"through a symlink":               {[][]ent{{{name: "usr/lib/"}, {name: "lib", kind: '2', link: "usr/lib"}, {name: "lib/f", body: "2"}, {name: "lib/g", body: "3"}}}, "a/ a/old=1 b=1 c/ c/x=1 lib@ usr/ usr/lib/ usr/lib/f=2 usr/lib/g=3"},
		"through an absolute symlink":     {[][]ent{{{name: "lib", kind: '2', link: "/c"}, {name: "lib/f", body: "2"}}}, "a/ a/old=1 b=1 c/ c/f=2 c/x=1 lib@"},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry()
			layers := [][]byte{layerTarOf(t, base...)}
			for _, l := range c.layers {
				layers = append(layers, layerTarOf(t, l...))
			}
			reg.addImage(t, "r.test/x:latest", nil, layers...)
			id, _ := s.pull(t, reg, "r.test/x")
			dir := s.mounted(t, id)
			var got []string
			for _, line := range listing(t, dir) {
				f := strings.Fields(line)
				switch f[1][0] {
				case 'd':
					got = append(got, f[0]+"/")
				case 'L':
					got = append(got, f[0]+"@")
				default:
					got = append(got, f[0]+"="+f[2])
				}
			}
			if have := strings.Join(got, " "); have != c.want {
				t.Errorf("got  %s\nwant %s", have, c.want)
			}
			if name == "opaque first" { // and implied: as it is below
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, "a"), &st); err != nil || st.Mode&0o7777 != 0o700 || st.Uid != 5 || st.Mtim.Sec != testTime.Unix() {
					t.Error(st, err)
				}
			}
		})
	}
}

// TestManyEntries unpacks entries that change their directory each time.
func TestManyEntries(t *testing.T) {
	s := newStore(t)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	const n = 20_000
	for i := range n {
		name := strings.Repeat("d/", i%5) + "f" + strings.Repeat("0", i%7) + string(rune('a'+i%26))
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
	}
	_ = tw.Close()
	dir := t.TempDir()
	got, err := extract(t.Context(), dir, &b, s.newBudget(1))
	if err != nil || got.entries != n {
		t.Error(got.entries, err)
	}
	slices.Sort(got.implied)
	equal(t, "implied", got.implied, []string{"d", "d/d", "d/d/d", "d/d/d/d"})
}

// FuzzApply unpacks anything: nothing outside of the directory changes, and
// nothing panics.
func FuzzApply(f *testing.F) {
	for _, l := range threeLayers(f) {
		f.Add(l)
	}
	f.Add(layerTarOf(f, ent{name: "../x", body: "x"}))
	f.Add(layerTarOf(f, ent{name: "l", kind: '2', link: "/"}, ent{name: "l/../x", body: "x"}, ent{name: "l/y", body: "x"}))
	f.Add(layerTarOf(f, ent{name: "l", kind: '2', link: "../../out"}, ent{name: "h", kind: '1', link: "l/canary"}, ent{name: "l/.wh.canary"}))
	f.Add(layerTarOf(f, ent{name: "a/b/"}, ent{name: "a", kind: '2', link: ".."}, ent{name: "a/b/c", body: "x"}, ent{name: "a/.wh..wh..opq"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		dir, out := filepath.Join(top, "in"), filepath.Join(top, "out")
		for _, d := range []string{dir, out} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(out, "canary"), []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := stats(t, out)
		s := &Store{opts: Options{Root: top, Limits: Limits{Unpacked: 1 << 20, Entries: 1000}.withDefaults()}}
		if got, err := extract(t.Context(), dir, bytes.NewReader(b), s.newBudget(int64(len(b)))); err == nil {
			_ = complete(dir, got, []string{out})
		}
		if after := stats(t, out); !slices.Equal(before, after) {
			t.Errorf("outside: %v, before: %v", after, before)
		}
		list, err := os.ReadDir(top)
		if err != nil || len(list) != 2 {
			t.Error(list, err)
		}
	})
}

// stats is what a directory and what is in it has in its inodes, but for the
// times of access.
func stats(t *testing.T, dir string) []unix.Stat_t {
	t.Helper()
	var all []unix.Stat_t
	for _, p := range []string{dir, filepath.Join(dir, "canary")} {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			t.Fatal(err)
		}
		st.Atim = unix.Timespec{}
		all = append(all, st)
	}
	return all
}

// FuzzLoad loads anything: it fails or there are images that can be listed, and
// nothing half made is left.
func FuzzLoad(f *testing.F) {
	root := f.TempDir()
	s, err := Open(f.Context(), Options{Root: root, Limits: Limits{Unpacked: 1 << 20, Archive: 4 << 20, Entries: 1000}})
	if err != nil {
		f.Fatal(err)
	}
	id, err := s.Import(f.Context(), importOf("one"), bytes.NewReader(layerTarOf(f, ent{name: "file", body: "1"})), nil)
	if err != nil {
		f.Fatal(err)
	}
	var saved bytes.Buffer
	if err := s.Save(f.Context(), []string{id, "one"}, nil, &saved); err != nil {
		f.Fatal(err)
	}
	f.Add(saved.Bytes())
	f.Add(gz(f, saved.Bytes()))
	f.Add(layerTarOf(f, ent{name: "manifest.json", body: `[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`}, ent{name: "c", body: `{"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}`}, ent{name: "l"}))
	f.Add(layerTarOf(f, ent{name: "index.json", body: `{"manifests":[{}]}`}))
	f.Add(layerTarOf(f, ent{name: "manifest.json", body: `[{"Config":"x/../../c","Layers":["l"]}]`}, ent{name: "l", kind: '2', link: "l"}))
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(t.Context(), Options{Root: t.TempDir(), Limits: Limits{Unpacked: 1 << 20, Archive: 4 << 20, Entries: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		lerr := s.Load(t.Context(), bytes.NewReader(b), true, nil)
		images := s.all()
		if lerr == nil && len(images) == 0 && len(b) > 0 {
			// An archive with an empty list of images is one.
			lerr = nil
		}
		ts := &testStore{Store: s}
		layers, blobs, ingests := ts.files(t)
		if ingests != 0 || lerr != nil && len(images) == 0 && (layers != 0 || blobs != 0) {
			t.Errorf("%d layers, %d blobs, %d ingests are left after %v", layers, blobs, ingests, lerr)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
