package spec

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

func TestParseBinds(t *testing.T) {
	hc := &container.HostConfig{
		Binds: []string{"/a:/b/../c:ro,rslave,z", "vol:/v:nocopy"},
		Tmpfs: map[string]string{"/tmpfs/": ""},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: "/", Target: "/m", ReadOnly: true},
			{Type: mount.TypeBind, Source: "/nope", Target: "/made", BindOptions: &mount.BindOptions{CreateMountpoint: true}},
			{Type: mount.TypeVolume, Target: "/anon", VolumeOptions: &mount.VolumeOptions{Labels: map[string]string{"a": "b"}}},
			{Type: mount.TypeTmpfs, Target: "/t"},
		},
	}
	list, err := ParseBinds(&container.Config{Volumes: map[string]struct{}{"/c": {}, "/tmpfs": {}, "/image/": {}}}, hc)
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, list, `[`+
		`{"Type":"bind","Source":"/a","Destination":"/c","Mode":"ro,rslave,z","RW":false,"Propagation":"rslave"},`+
		`{"Type":"volume","Name":"vol","Source":"","Destination":"/v","Driver":"local","Mode":"nocopy","RW":true,"Propagation":""},`+
		`{"Type":"bind","Source":"/","Destination":"/m","Mode":"","RW":false,"Propagation":"rprivate"},`+
		`{"Type":"bind","Source":"/nope","Destination":"/made","Mode":"","RW":true,"Propagation":"rprivate"},`+
		`{"Type":"volume","Source":"","Destination":"/anon","Driver":"local","Mode":"","RW":true,"Propagation":""},`+
		`{"Type":"tmpfs","Source":"","Destination":"/t","Mode":"","RW":true,"Propagation":""},`+
		`{"Type":"volume","Source":"","Destination":"/image","Driver":"local","Mode":"","RW":true,"Propagation":""}]`)
	if !VolumeOptions(hc, list[1]).NoCopy || VolumeOptions(hc, list[0]).NoCopy || VolumeOptions(hc, list[4]).Labels["a"] != "b" {
		t.Error("options of volumes are not those that were asked for")
	}
}

func TestParseBindsErrors(t *testing.T) {
	binds := func(b ...string) container.HostConfig { return container.HostConfig{Binds: b} }
	mounts := func(m ...mount.Mount) container.HostConfig { return container.HostConfig{Mounts: m} }
	for _, c := range []struct {
		hc   container.HostConfig
		want string
	}{
		{binds(""), "invalid volume specification: ''"},
		{binds(":/x"), "invalid volume specification: ':/x'"},
		{binds("/x:ro"), "invalid volume specification: '/x:ro'"},
		{binds("/x:/y:z:q"), "invalid volume specification: '/x:/y:z:q'"},
		{binds("/x:/y:ro,rw"), "invalid mode: ro,rw"},
		{binds("/x:/y:nope"), "invalid mode: nope"},
		{binds("/x:/"), `invalid volume specification: '/x:/': invalid mount config for type "bind": invalid specification: destination can't be '/'`},
		{binds("/x:y"), `invalid volume specification: '/x:y': invalid mount config for type "bind": invalid mount path: 'y' mount path must be absolute`},
		{binds("/x:/y:nocopy"), `invalid volume specification: '/x:/y:nocopy': invalid mount config for type "bind": field VolumeOptions must not be specified`},
		{binds("v:/y:shared"), `invalid volume specification: 'v:/y:shared': invalid mount config for type "volume": field BindOptions must not be specified`},
		{binds("/x:/y", "/z:/y/"), "Duplicate mount point: /y"},
		{container.HostConfig{Binds: []string{"/x:/y"}, Tmpfs: map[string]string{"/y/": ""}}, "Duplicate mount point: /y"},
		{mounts(mount.Mount{Type: "bind", Source: "/nope", Target: "/x"}), `invalid mount config for type "bind": bind source path does not exist: /nope`},
		{mounts(mount.Mount{Type: "bind", Target: "/x"}), `invalid mount config for type "bind": field Source must not be empty`},
		{mounts(mount.Mount{Type: "bind", Source: "/"}), `invalid mount config for type "bind": field Target must not be empty`},
		{
			mounts(mount.Mount{Type: "bind", Source: "/", Target: "/x", BindOptions: &mount.BindOptions{Propagation: "x"}}),
			`invalid mount config for type "bind": invalid propagation mode: x`,
		},
		{mounts(mount.Mount{Type: "volume", Target: "/x", ReadOnly: true}), `invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes`},
		{
			mounts(mount.Mount{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a"}}),
			`invalid mount config for type "volume": volume-subpath is not supported`,
		},
		{mounts(mount.Mount{Type: "tmpfs", Source: "v", Target: "/x"}), `invalid mount config for type "tmpfs": field Source must not be specified`},
		{
			mounts(mount.Mount{Type: "tmpfs", Target: "/x", TmpfsOptions: &mount.TmpfsOptions{Options: [][]string{{"nope"}}}}),
			`invalid mount config for type "tmpfs": invalid option: nope`,
		},
		{mounts(mount.Mount{Type: "image", Source: "v", Target: "/x"}), `mounts of type "image" are not supported`},
		{mounts(mount.Mount{Type: "nope", Target: "/x"}), `invalid mount config for type "nope": mount type unknown`},
	} {
		if _, err := ParseBinds(&container.Config{}, &c.hc); err == nil || err.Error() != c.want {
			t.Errorf("ParseBinds = %v, want %s", err, c.want)
		}
	}
	if _, err := ParseBinds(&container.Config{Volumes: map[string]struct{}{"/a:/b": {}}}, &container.HostConfig{}); err == nil {
		t.Error("a volume with a colon is accepted")
	}
}

func TestParseVolumesFrom(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a rw", "a:ro": "a ro", "a:z": "a z", "": "volumes-from specification cannot be an empty string",
		"a:x": "invalid mode: x", "a:nocopy": "invalid mode: nocopy", "a:ro,shared": "invalid mode: ro,shared",
	} {
		name, mode, err := ParseVolumesFrom(in)
		got := name + " " + mode
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("ParseVolumesFrom(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzBind checks that whatever a --volume says ends in an error or a mount
// point with absolute paths.
func FuzzBind(f *testing.F) {
	for _, s := range []string{"/a:/b", "a:/b:ro", "/", ":", "::", "a:/b:", "/a:/b:ro,z,shared,nocopy,cached"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseBind(s, "")
		if err == nil && (!strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || m.Type == mount.TypeBind && !strings.HasPrefix(m.Source, "/")) {
			t.Errorf("%q becomes %+v", s, m)
		}
	})
}

func TestTmpfs(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "noexec,nosuid,nodev,rprivate",
		"exec,size=1m,size=2m,rw,dev": "nosuid,rprivate,exec,size=2m,rw,dev",
		"ro,rw,shared,uid=1,mode=755": "noexec,nosuid,nodev,rw,shared,uid=1,mode=755",
		"size":                        `invalid tmpfs option "size"`,
		"a=b":                         `invalid tmpfs option "a=b"`,
	} {
		m, err := tmpfsMount("/x/", in)
		got := strings.Join(m.Options, ",")
		if err != nil {
			got = err.Error()
		}
		if got != want || m.Destination != "/x" {
			t.Errorf("tmpfsMount(%q) = %s, want %s", in, got, want)
		}
	}
}
