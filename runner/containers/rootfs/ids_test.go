package rootfs_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
)

// TestIDs copies files of a user namespace in and out.
func TestIDs(t *testing.T) {
	t.Parallel()
	ids := rootfs.IDs{
		UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 100}, {ContainerID: 100, HostID: 500000, Size: 100}},
		GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 300000, Size: 100}},
	}
	dir := t.TempDir()
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	must(t, ids.Extract(root, "/", runner.ArchiveOptions{}, archiveOf(t,
		tar.Header{Name: "made/file", Typeflag: tar.TypeReg, Uid: 150, Gid: 7, Mode: 0o600})))
	for name, want := range map[string]rootfs.Owner{"/made": {UID: 200000, GID: 300000}, "/made/file": {UID: 500050, GID: 300007}} {
		r, _, err := rootfs.Archive(root, name)
		must(t, err)
		hdr, err := tar.NewReader(r).Next()
		must(t, err)
		if got := (rootfs.Owner{UID: hdr.Uid, GID: hdr.Gid}); got != want {
			t.Errorf("%s is of %v outside, want %v", name, got, want)
		}
		r.Close()
	}
	must(t, os.Chown(dir+"/made", 1, 300005)) // of somebody else
	r, _, err := ids.Archive(root, "/made")
	must(t, err)
	defer r.Close()
	archive := tar.NewReader(r)
	for _, want := range []rootfs.Owner{{UID: 65534, GID: 5}, {UID: 150, GID: 7}} {
		hdr, err := archive.Next()
		must(t, err)
		if got := (rootfs.Owner{UID: hdr.Uid, GID: hdr.Gid}); got != want {
			t.Errorf("%s is of %v inside, want %v", hdr.Name, got, want)
		}
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	err = ids.Extract(root, "/", runner.ArchiveOptions{}, archiveOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Uid: 200}))
	if !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("an owner who is not in the namespace: %v", err)
	}
}
