package spec

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
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
			{Type: mount.TypeImage, Source: "web", Target: "/i", ImageOptions: &mount.ImageOptions{Subpath: "www"}},
		},
	}
	list, err := ParseBinds(&container.Config{Volumes: map[string]struct{}{"/c": {}, "/tmpfs": {}, "/image/": {}, "/from": {}}}, hc, []container.MountPoint{{Destination: "/from", Name: "theirs"}, {Destination: "/c", Name: "beaten"}})
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
		`{"Type":"image","Source":"web","Destination":"/i","Mode":"","RW":false,"Propagation":""},`+
		`{"Name":"theirs","Source":"","Destination":"/from","Mode":"","RW":false,"Propagation":""},`+
		`{"Type":"volume","Source":"","Destination":"/image","Driver":"local","Mode":"","RW":true,"Propagation":""}]`)
	checkJSON(t, asked(hc, list), `[`+
		`{"Type":"bind","Source":"/a","Target":"/b/../c","ReadOnly":true,"BindOptions":{"Propagation":"rslave","CreateMountpoint":true}},`+
		`{"Type":"volume","Source":"vol","Target":"/v","VolumeOptions":{"NoCopy":true}},`+
		`{"Type":"bind","Source":"/","Target":"/m","ReadOnly":true},`+
		`{"Type":"bind","Source":"/nope","Target":"/made","BindOptions":{"CreateMountpoint":true}},`+
		`{"Type":"volume","Target":"/anon","VolumeOptions":{"Labels":{"a":"b"}}},`+
		`{"Type":"tmpfs","Target":"/t"},`+
		`{"Type":"image","Source":"web","Target":"/i","ImageOptions":{"Subpath":"www"}},`+
		`{"Type":"volume","Source":"named","Target":"/from"},`+
		`{"Target":"/image"}]`)
}

// asked is what was asked of mount points of a container that has /from by
// --volumes-from.
func asked(hc *container.HostConfig, list []container.MountPoint) (all []mount.Mount) {
	c := &runner.Container{HostConfig: hc, Inherited: []mount.Mount{{Type: mount.TypeVolume, Source: "named", Target: "/from"}, {Source: "beaten", Target: "/c"}}}
	for _, m := range list {
		all = append(all, Asked(c, m.Destination))
	}
	return all
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
			mounts(mount.Mount{Type: "volume", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a"}}),
			`invalid mount config for type "volume": must not set Subpath when using anonymous volumes`,
		},
		{
			mounts(mount.Mount{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a/../../b"}}),
			`invalid mount config for type "volume": subpath must be a relative path within the volume`,
		},
		{mounts(mount.Mount{Type: "tmpfs", Source: "v", Target: "/x"}), `invalid mount config for type "tmpfs": field Source must not be specified`},
		{
			mounts(mount.Mount{Type: "tmpfs", Target: "/x", TmpfsOptions: &mount.TmpfsOptions{Options: [][]string{{"nope"}}}}),
			`invalid mount config for type "tmpfs": invalid option: nope`,
		},
		{mounts(mount.Mount{Type: "image", Target: "/x"}), `invalid mount config for type "image": field Source must not be empty`},
		{
			mounts(mount.Mount{Type: "image", Source: "v", Target: "/x", ImageOptions: &mount.ImageOptions{Subpath: "/etc"}}),
			`invalid mount config for type "image": subpath must be a relative path within the image`,
		},
		{mounts(mount.Mount{Type: "npipe", Source: "v", Target: "/x"}), `mounts of type "npipe" are not supported`},
		{mounts(mount.Mount{Type: "nope", Target: "/x"}), `invalid mount config for type "nope": mount type unknown`},
	} {
		if _, err := ParseBinds(&container.Config{}, &c.hc, nil); err == nil || err.Error() != c.want {
			t.Errorf("ParseBinds = %v, want %s", err, c.want)
		}
	}
	if _, err := ParseBinds(&container.Config{Volumes: map[string]struct{}{"/a:/b": {}}}, &container.HostConfig{}, nil); err == nil {
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
