package runner

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestMounts checks how mounts of containers are connected to the host's, and what
// is mounted that has no path there.
func TestMounts(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Run("pull", "-q", h.image("web:v1"))
	before := h.usedCensus()
	for _, test := range []struct {
		name string
		do   func(desk)
	}{
		{"propagation", desk.propagation},
		{"recursion", desk.recursion},
		{"restrictions", desk.restrictions},
		{"subpath", desk.subpath},
		{"subpath that changes", desk.changingSubpath},
		{"image", desk.imageMount},
	} {
		t.Run(test.name, func(t *testing.T) { test.do(newDesk(t, h)) })
	}
	h.Settle(t, before)
}

// propagation mounts on both sides of a bind in every mode, and looks on the other.
func (d desk) propagation() {
	d.sh.Run("mkdir /run/p && mount -t tmpfs p /run/p && mkdir /run/p/host /run/p/inside")
	for _, mode := range append([]mount.Propagation{""}, mount.Propagations...) {
		options := "/run/p:/p"
		if mode != "" {
			options += ":" + string(mode)
		}
		kind := strings.TrimPrefix(string(mode), "r")
		d.start("mounter", "--privileged", "-v", options)
		d.sh.Run("mount -t tmpfs new /run/p/host && touch /run/p/host/f")
		d.exec("mounter", "mount -t tmpfs new /p/inside && touch /p/inside/f")
		got := d.exec("mounter", "ls /p/host") + "|" + d.sh.Run("ls /run/p/inside")
		want := map[string]string{"": "|", "private": "|", "slave": "f\n|", "shared": "f\n|f\n"}[kind]
		if got != want {
			d.t.Errorf("with %q the sides see %q, want %q", mode, got, want)
		}
		d.remove("mounter")
		d.sh.Run("umount /run/p/host; umount /run/p/inside 2>/dev/null || true")
	}
	d.sh.Run("mount --make-private /run/p")
	for _, mode := range []string{"rshared", "shared"} {
		d.fails("path /run/p is mounted on /run/p but it is not a shared mount", "true", "-v", "/run/p:/p:"+mode)
	}
	d.fails("path /run/p is mounted on /run/p but it is not a shared or slave mount", "true", "-v", "/run/p:/p:rslave")
	d.sh.Run("umount /run/p && rmdir /run/p")
}

// recursion is about what is mounted below a bind.
func (d desk) recursion() {
	d.sh.Run("mkdir /run/r && mount -t tmpfs r /run/r && mkdir /run/r/sub && mount -t tmpfs sub /run/r/sub && touch /run/r/sub/f")
	script := `for d in /r /r/sub; do touch $d/x 2>/dev/null && rm $d/x && echo $d yes || echo $d no; done; ls /r/sub`
	for options, want := range map[string]string{
		"":                                 "/r yes\n/r/sub yes\nf\n",
		"bind-recursive=disabled":          "/r yes\n/r/sub yes\n",
		"readonly":                         "/r no\n/r/sub no\nf\n",
		"readonly,bind-recursive=enabled":  "/r no\n/r/sub no\nf\n",
		"readonly,bind-recursive=writable": "/r no\n/r/sub yes\nf\n",
		"readonly,bind-recursive=readonly,bind-propagation=rprivate": "/r no\n/r/sub no\nf\n",
		"readonly,bind-recursive=disabled":                           "/r no\n/r/sub no\n",
		"readonly,consistency=cached":                                "/r no\n/r/sub no\nf\n",
	} {
		if got := d.run(script, "--mount", strings.TrimSuffix("type=bind,src=/run/r,dst=/r,"+options, ",")); got != want {
			d.t.Errorf("with %q a container finds %q, want %q", options, got, want)
		}
	}
	d.sh.Run("umount /run/r/sub && umount /run/r && rmdir /run/r")
}

// restrictions of what is bound hold in the container, too.
func (d desk) restrictions() {
	d.sh.Run(`mkdir /run/s && mount -t tmpfs -o noexec,nosuid,nodev s /run/s && echo 'echo ran' >/run/s/x && chmod +x /run/s/x && mount -o remount,ro /run/s`)
	d.want(d.run(`/s/x 2>/dev/null || echo noexec; grep " /s " /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1-4`, "-v", "/run/s:/s"), "noexec\nro,nosuid,nodev,noexec\n")
	d.fails("Read-only file system", "touch /s/new", "-v", "/run/s:/s")
	d.sh.Run("umount /run/s && rmdir /run/s")
}

// subpath mounts a part of a volume, and nothing else.
func (d desk) subpath() {
	d.run("mkdir -p /v/dir/deep /v/other && echo inside >/v/dir/deep/f && echo file >/v/file && ln -s / /v/root && ln -s ../../../etc /v/up && ln -s dir/deep /v/link", "-v", "parts:/v")
	of := func(path string, more ...string) []string {
		return []string{"--mount", strings.Join(append([]string{"type=volume,src=parts,dst=/x,volume-subpath=" + path}, more...), ",")}
	}
	d.want(d.run("cat /x/f; echo more >/x/g", of("dir/deep")...), "inside\n")
	d.want(d.run("ls /x", of("link")...), "f\ng\n")
	d.want(d.run("ls /x", of("root")...), "dir\nfile\nlink\nother\nroot\nup\n")
	d.want(d.run("cat /x", of("file", "readonly")...), "file\n")
	d.fails("Read-only file system", "echo no >/x", of("file", "readonly")...)
	d.fails("Read-only file system", "touch /x/no", of("dir", "readonly")...)
	d.fails("cannot access path", "true", of("up")...) // there is no etc in the volume
	d.fails("no such file or directory", "true", of("missing")...)
	d.fails("must be a relative path", "true", of("/dir")...)
	// It is not filled: what the image has belongs elsewhere.
	d.fails("cannot access path", "true", "--mount", "type=volume,src=fresh,dst=/bin,volume-subpath=a")
	// Volumes with options, too, and files are copied while nothing runs.
	d.sh.Run("mkdir -p /run/parts/dir")
	d.docker.Run("create", "--name", "stopped", "--mount", "type=volume,src=bound,dst=/x,volume-subpath=dir,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/run/parts", d.busybox, "cat", "/x/copied")
	d.docker.Input(tarOf(d, "copied")).Run("cp", "-", "stopped:/x")
	d.want(d.docker.Run("start", "-a", "stopped"), "copied\n")
	d.want(d.sh.Run("cat /run/parts/dir/copied && rm -r /run/parts"), "copied\n")
	d.remove("stopped")
	d.docker.Run("volume", "rm", "parts", "bound", "fresh")
}

// changingSubpath exchanges the directory for a link out of the volume, again and
// again, while containers start with it.
func (d desk) changingSubpath() {
	d.sh.Run("mkdir -p /run/secret && echo secret >/run/secret/f")
	d.run("mkdir /v/dir /v/a && echo inside >/v/dir/f && ln -s /run/secret /v/b", "-v", "flip:/v")
	d.docker.Run("run", "-d", "--name", "flipper", "-v", "flip:/v", d.busybox, "sh", "-c",
		"cd /v; while :; do mv dir keep; ln -s /run/secret dir; rm dir; ln -s ../../../../../../../../../../run/secret dir; rm dir; mv keep dir; done")
	const tries = 15
	started := 0
	for range tries {
		out, stderr, err := d.docker.Try("run", "--rm", "--mount", "type=volume,src=flip,dst=/x,volume-subpath=dir", d.busybox, "cat", "/x/f")
		switch {
		case strings.Contains(out+stderr, "secret\n"):
			d.t.Fatal("the container has got out of the volume")
		case err == nil && out == "inside\n":
			started++
		case err == nil || !strings.Contains(stderr, "cannot access path"):
			d.t.Errorf("%v: %s%s", err, out, stderr)
		}
	}
	d.t.Logf("%d of %d containers have started", started, tries)
	d.remove("flipper")
	d.docker.Run("volume", "rm", "flip")
	d.sh.Run("rm -r /run/secret")
}

// imageMount mounts the files of an image, which stays while a container has it.
func (d desk) imageMount() {
	web := d.host.image("web:v1")
	page := strings.TrimSpace(d.docker.Run("run", "--rm", web, "ls", "/www"))
	d.want(d.run("ls /img/www; touch /img/x 2>/dev/null || echo read-only", "--mount", "type=image,src="+web+",dst=/img"), page+"\nread-only\n")
	d.want(d.run("ls /img", "--mount", "type=image,src="+web+",dst=/img,image-subpath=www"), page+"\n")
	d.want(d.run("test -s /file && echo file", "--mount", "type=image,src="+web+",dst=/file,image-subpath=www/"+page), "file\n")
	d.fails("cannot access path", "true", "--mount", "type=image,src="+web+",dst=/img,image-subpath=nowhere")
	d.start("holder", "--mount", "type=image,src="+web+",dst=/img")
	d.want(d.docker.Run("inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Source}} {{.RW}}{{end}}", "holder"), fmt.Sprintf("image %s false\n", web))
	id := strings.TrimSpace(d.docker.Run("image", "inspect", "-f", "{{.Id}}", web))
	d.refused("unable to", "image", "rm", id)
	d.refused("is using its referenced image", "image", "rm", web)
	d.docker.Run("image", "rm", "-f", web) // only its name
	d.docker.Run("image", "prune", "-f", "-a", "--filter", "label=nothing")
	d.docker.Run("restart", "-t", "0", "holder")
	d.want(d.exec("holder", "ls /img/www"), page+"\n")
	d.want(d.run("ls /img/www", "--volumes-from", "holder"), page+"\n")
	d.remove("holder")
	d.docker.Run("pull", "-q", web)
}

// TestVolumesAreLetGo kills the runner and takes the power from the host while
// containers use a volume that is mounted: it stays mounted for as long as it is
// used, and no longer.
func TestVolumesAreLetGo(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	before := h.usedCensus()
	d := newDesk(t, h)
	d.docker.Run("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "ram")
	dir := d.mountpoint("ram")
	d.start("stays", "-v", "ram:/data")
	d.start("ends", "-v", "ram:/data")
	d.exec("stays", "echo kept >/data/f")

	h.Kill()
	d.want(d.mounted(dir), "tmpfs\n")
	h.Restart()
	d.want(d.exec("stays", "cat /data/f"), "kept\n")
	d.remove("ends")
	d.want(d.mounted(dir), "tmpfs\n")
	d.start("ends", "-v", "ram:/data")
	d.want(d.exec("ends", "cat /data/f"), "kept\n")

	// Both end while no runner is there.
	pids := d.docker.Run("inspect", "-f", "{{.State.Pid}}", "stays", "ends")
	h.Kill()
	d.sh.Run("kill -9 " + strings.Join(strings.Fields(pids), " "))
	h.Restart()
	if err := eventually(func() error {
		if got := d.mounted(dir); got != "" {
			return fmt.Errorf("nobody uses it, and it is mounted: %s", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}

	// What was mounted and is used by nobody, as if the runner had been killed
	// between the two, is cleared: the host's disk is not removed with the volume.
	d.sh.Run("mkdir /run/disk && touch /run/disk/f")
	d.docker.Run("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/run/disk", "disk")
	h.Kill()
	d.sh.Run("mount --bind /run/disk " + d.volumeDir(h, "disk"))
	h.Restart()
	d.want(d.mounted(d.volumeDir(h, "disk")), "")
	d.sh.Run("mount --bind /run/disk " + d.volumeDir(h, "disk"))
	d.docker.Run("volume", "rm", "disk")
	d.want(d.sh.Run("ls /run/disk; rm -r /run/disk"), "f\n")

	d.start("returns", "--restart", "always", "-v", "ram:/data")
	d.want(d.mounted(dir), "tmpfs\n")
	h.reboot()
	d = newDesk(t, h)
	if err := eventually(func() error {
		out, stderr, err := d.docker.Try("exec", "returns", "sh", "-c", "grep -c ' /data tmpfs' /proc/mounts; ls /data")
		if err != nil || out != "1\n" {
			return fmt.Errorf("after the reboot: %w %s%s", err, out, stderr)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	d.want(d.mounted(dir), "tmpfs\n")
	d.remove("returns", "stays", "ends")
	d.docker.Run("volume", "rm", "ram")
	h.Settle(t, before)
}

// volumeDir is where a volume's files are.
func (d desk) volumeDir(h *host, name string) string { return h.Data + "/volumes/" + name + "/_data" }

// TestMountsMapped mounts parts of volumes and of images into containers with a
// user namespace of their own: what is root's there is root's in the volume.
func TestMountsMapped(t *testing.T) {
	t.Parallel()
	h := remappedHost(t, berthtest.MachineOptions{})
	for _, image := range []string{"busybox", "web:v1"} {
		h.docker.Run("pull", "-q", h.image(image))
	}
	d := newDesk(t, h)
	d.run("mkdir /v/dir && touch /v/dir/f && chown 7:8 /v/dir/f", "-v", "parts:/v")
	part := "type=volume,src=parts,dst=/x,volume-subpath=dir"
	d.want(d.run("stat -c %u:%g /x /x/f; touch /x/new && stat -c %u:%g /x/new", "--mount", part), "0:0\n7:8\n0:0\n")
	d.want(d.run("stat -c %u:%g /x/new", "--userns", "host", "--mount", part), "0:0\n")
	web := h.image("web:v1")
	page := d.docker.Run("run", "--rm", web, "ls", "/www")
	d.want(d.run("ls /img", "--mount", "type=image,src="+web+",dst=/img,image-subpath=www"), page)
	d.want(d.docker.Run("run", "--rm", "-v", "full:/www", web, "ls", "/www"), page)
	d.want(d.run("stat -c %u:%g /x/*", "-v", "full:/x"), "0:0\n")
}
