package spec

import (
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

func TestParseSubIDs(t *testing.T) {
	t.Parallel()
	type maps = []specs.LinuxIDMapping
	for _, test := range []struct {
		text string
		want maps
		fail string
	}{
		{text: "", want: nil},
		{text: "other:100000:65536\n", want: nil},
		{text: "berth:100000:65536\n", want: maps{{ContainerID: 0, HostID: 100000, Size: 65536}}},
		{text: "# a comment\n\nberth:100000:10\nother:1:1\n  1005:500000:20\n", want: maps{{HostID: 100000, Size: 10}, {ContainerID: 10, HostID: 500000, Size: 20}}},
		{text: "berth:100000:0\n", want: nil},
		{text: "berth:0:65536\n", fail: "the host's root"},
		{text: "berth:100000\n", fail: "invalid entry"},
		{text: "berth:100000:-1\n", fail: "invalid entry"},
		{text: "berth:4294967290:65536\n", fail: "more than there are"},
		{text: "berth:1:4294967294\nberth:5:4294967000\n", fail: "more than there are"},
		{text: strings.Repeat("berth:100000:1\n", 400), fail: "more than 339 entries"},
	} {
		got, err := parseSubIDs(strings.NewReader(test.text), []string{"berth", "1005"})
		if test.fail != "" {
			if err == nil || !strings.Contains(err.Error(), test.fail) {
				t.Errorf("%.40q: %v, want %q", test.text, err, test.fail)
			}
			continue
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%.40q: %v, %v, want %v", test.text, got, err, test.want)
		}
	}
}

func FuzzParseSubIDs(f *testing.F) {
	f.Add("berth:100000:65536\n1005:1:2\n")
	f.Add("berth:4294967295:1\nberth::\n")
	f.Fuzz(func(t *testing.T, text string) {
		maps, err := parseSubIDs(strings.NewReader(text), []string{"berth", "1005"})
		if err != nil {
			return
		}
		next := uint64(0)
		for _, m := range maps {
			if uint64(m.ContainerID) != next || m.HostID == 0 || m.Size == 0 || uint64(m.HostID)+uint64(m.Size) >= 1<<32 {
				t.Fatalf("%q is read as %v", text, maps)
			}
			next += uint64(m.Size)
		}
	})
}

// TestFindUserNamespace asks for the maps of a process in one, and of one in none.
func TestFindUserNamespace(t *testing.T) {
	t.Parallel()
	if u, err := FindUserNamespace(os.Getpid()); err != nil || u.Own() {
		t.Errorf("this process is in %+v, %v", u, err)
	}
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 700000, Size: 10}, {ContainerID: 10, HostID: 800000, Size: 20}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 900000, Size: 30}},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdin.Close(), cmd.Wait() }()
	u, err := FindUserNamespace(cmd.Process.Pid)
	want := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 700000, Size: 10}, {ContainerID: 10, HostID: 800000, Size: 20}}
	if err != nil || !slices.Equal(u.UIDs, want) || len(u.GIDs) != 1 || u.GIDs[0].HostID != 900000 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := FindUserNamespace(1 << 30); err == nil {
		t.Error("a process that is not there has a user namespace")
	}
}

// TestRemappedSpec compares what a container with a user namespace gets with what
// one without gets.
func TestRemappedSpec(t *testing.T) {
	t.Parallel()
	users := UserNamespace{UIDs: []specs.LinuxIDMapping{{HostID: 7, Size: 8}}, GIDs: []specs.LinuxIDMapping{{HostID: 9, Size: 8}}}
	h := Host{PingGroupRange: true, UnprivilegedPorts: true, CgroupV2: true, CgroupNamespaces: true}
	hc := &container.HostConfig{NetworkMode: "bridge", IpcMode: "private"}
	in := Input{
		Host: h, User: users, Files: Files{Hosts: "/c/hosts"},
		Container: &runner.Container{ID: "c", Path: "sh", Config: &container.Config{}, HostConfig: hc, Mounts: []container.MountPoint{
			{Type: mount.TypeVolume, Name: "mine", Source: "/volumes/mine", Destination: "/mine", RW: true},
			{Type: mount.TypeVolume, Name: "nfs", Source: "/volumes/nfs", Destination: "/nfs", RW: true},
			{Type: mount.TypeBind, Source: "/srv", Destination: "/srv", RW: true},
		}},
		IsVolume: func(m container.MountPoint) bool { return m.Name == "mine" },
	}
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace && n.Path == "" }) {
		t.Errorf("namespaces %v", s.Linux.Namespaces)
	}
	if !reflect.DeepEqual(s.Linux.UIDMappings, users.UIDs) || !reflect.DeepEqual(s.Linux.GIDMappings, users.GIDs) {
		t.Errorf("maps %v %v", s.Linux.UIDMappings, s.Linux.GIDMappings)
	}
	if _, there := s.Linux.Sysctl[pingGroups]; there {
		t.Error("groups may ping that are not mapped")
	}
	var mapped []string
	for _, m := range s.Mounts {
		if m.Type == "cgroup" && slices.Contains(m.Options, "ro") {
			t.Errorf("mount %v", m)
		}
		if len(m.UIDMappings) > 0 {
			mapped = append(mapped, m.Destination)
		}
	}
	if slices.Sort(mapped); !slices.Equal(mapped, []string{"/etc/hosts", "/mine"}) {
		t.Errorf("mapped mounts %v", mapped)
	}
}

func TestCheckUserns(t *testing.T) {
	t.Parallel()
	for _, hc := range []container.HostConfig{{Privileged: true}, {NetworkMode: "host"}, {PidMode: "host"}} {
		if err := checkUserns(Host{Remap: true}, &hc); err == nil {
			t.Errorf("%+v is accepted", hc)
		}
		if err := checkUserns(Host{}, &hc); err != nil {
			t.Error(err)
		}
		if hc.UsernsMode = "host"; checkUserns(Host{Remap: true}, &hc) != nil {
			t.Errorf("%+v is refused", hc)
		}
	}
}
