package runner

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestVolumes checks what the acceptance test does not of volumes and mounts, by
// their effect on the kernel.
func TestVolumes(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	for _, image := range []string{"layers", "web:v1"} {
		h.docker.Run("pull", "-q", h.image(image))
	}
	before := h.usedCensus()
	for _, test := range []struct {
		name string
		do   func(desk)
	}{
		{"driver options", desk.driverOptions},
		{"a bind as a volume", desk.bindVolume},
		{"what cannot be mounted", desk.mountFails},
		{"options that differ", desk.differingOptions},
		{"prune", desk.prune},
		{"events", desk.events},
		{"filling", desk.filling},
		{"crowd", desk.crowd},
		{"volumes-from", desk.volumesFrom},
		{"anonymous", desk.anonymous},
		{"errors", desk.errors},
		{"sources that go", desk.goneSources},
		{"tmpfs", desk.tmpfs},
	} {
		t.Run(test.name, func(t *testing.T) { test.do(newDesk(t, h)) })
	}
	h.Settle(t, before)
}

// desk is where a user sits: a shell on the host and the docker command.
type desk struct {
	t       *testing.T
	host    *host
	docker  *berthtest.Command
	sh      *berthtest.Command
	busybox string
}

func newDesk(t *testing.T, h *host) desk {
	t.Helper()
	return desk{
		t: t, host: h, docker: h.Docker(t), busybox: h.image("busybox"),
		sh: berthtest.NewCommand(t, "sh", "-ec").On(h.Machine),
	}
}

// want checks what a command has written.
func (d desk) want(got, want string) {
	d.t.Helper()
	if got != want {
		d.t.Errorf("got %q, want %q", got, want)
	}
}

// refused checks that docker refuses, and says why.
func (d desk) refused(why string, args ...string) {
	d.t.Helper()
	out, stderr, err := d.docker.Try(args...)
	if err == nil || !strings.Contains(stderr, why) {
		d.t.Errorf("docker %s: %v\n%s%swant %q", strings.Join(args, " "), err, out, stderr, why)
	}
}

// run runs a shell script in a new container with options.
func (d desk) run(script string, options ...string) string {
	d.t.Helper()
	return d.docker.Run(append(append([]string{"run", "--rm"}, options...), d.busybox, "sh", "-c", script)...)
}

// fails is run for a script that fails with an error that has words.
func (d desk) fails(words, script string, options ...string) {
	d.t.Helper()
	d.refused(words, append(append([]string{"run", "--rm"}, options...), d.busybox, "sh", "-c", script)...)
}

// start starts a container that stays.
func (d desk) start(name string, options ...string) {
	d.t.Helper()
	d.docker.Run(append(append([]string{"run", "-d", "--name", name}, options...), d.busybox, "sleep", "1000")...)
}

func (d desk) exec(name, script string) string {
	d.t.Helper()
	return d.docker.Run("exec", name, "sh", "-c", script)
}

func (d desk) remove(names ...string) {
	d.t.Helper()
	d.docker.Run(append([]string{"rm", "-f", "-v"}, names...)...)
}

// mounted is the type of the file system that is mounted on a directory of the
// host.
func (d desk) mounted(dir string) string {
	d.t.Helper()
	return d.sh.Run(`awk -v d="` + dir + `" '$2 == d { print $3 }' /proc/1/mounts`)
}

func (d desk) mountpoint(volume string) string {
	d.t.Helper()
	return strings.TrimSpace(d.docker.Run("volume", "inspect", "-f", "{{.Mountpoint}}", volume))
}

// driverOptions mounts what the options of a volume name while containers run that
// use it: there is one for all, and the host sees it.
func (d desk) driverOptions() {
	d.docker.Run("volume", "create", "--label", "a=b", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000,mode=700", "ram")
	d.want(d.docker.Run("volume", "inspect", "-f", "{{.Options.type}},{{.Options.device}} {{.Options.o}} {{.Labels.a}}", "ram"),
		"tmpfs,tmpfs size=1m,uid=1000,mode=700 b\n")
	dir := d.mountpoint("ram")
	d.want(d.mounted(dir), "")
	d.start("one", "-v", "ram:/data")
	d.start("two", "-v", "ram:/data:ro", "-v", "ram:/again")
	d.want(d.mounted(dir), "tmpfs\n")
	d.want(d.exec("one", "echo shared >/data/f; stat -c %u.%a /data; df -k /data | awk 'END { print $2 }'"), "1000.700\n1024\n")
	d.want(d.exec("two", "cat /data/f; cmp /data/f /again/f; touch /data/x 2>/dev/null || echo read-only"), "shared\nread-only\n")
	d.want(d.sh.Run("cat "+dir+"/f"), "shared\n")
	d.remove("one")
	d.want(d.mounted(dir), "tmpfs\n")
	d.want(d.exec("two", "cat /data/f"), "shared\n")
	d.docker.Run("stop", "-t", "0", "two")
	d.want(d.mounted(dir), "")
	d.want(d.sh.Run("ls -A "+dir), "")
	d.docker.Run("start", "two")
	d.want(d.exec("two", "ls -A /data"), "")
	d.refused("volume is in use - [", "volume", "rm", "ram")
	d.remove("two")
	d.docker.Run("volume", "rm", "ram")
}

// bindVolume makes a volume of a directory of the host: it is filled, it outlives
// the volume, and files are copied into it while nothing runs.
func (d desk) bindVolume() {
	d.sh.Run("mkdir /run/kept")
	d.docker.Run("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/run/kept", "kept")
	layers := d.host.image("layers")
	d.docker.Run("create", "--name", "user", "-v", "kept:/data", layers)
	d.want(d.sh.Run("ls -A /run/kept"), "added\nbig\ndir\nkept\nreplaced\n")
	d.want(d.mounted(d.mountpoint("kept")), "")
	d.docker.Input(d.sh.Run("cd /run/kept && tar c added")).Run("cp", "-", "user:/data/")
	d.docker.Input(tarOf(d, "copied")).Run("cp", "-", "user:/data/")
	d.want(d.sh.Run("cat /run/kept/copied"), "copied\n")
	d.want(d.mounted(d.mountpoint("kept")), "")
	d.docker.Run("start", "-a", "user")
	// A volume with anything in it is not filled.
	d.sh.Run("cd /run/kept && rm -r added big dir kept replaced")
	d.docker.Run("run", "--rm", "-v", "kept:/data", layers, "true")
	d.want(d.sh.Run("ls -A /run/kept"), "copied\n")
	d.remove("user")
	d.docker.Run("volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", "device=/run/kept", "closed")
	d.fails("Read-only file system", "grep /data /proc/mounts >&2; touch /data/x", "-v", "closed:/data")
	d.docker.Run("volume", "rm", "kept", "closed")
	d.want(d.sh.Run("ls -A /run/kept && rm -r /run/kept"), "copied\n")
}

// tarOf is an archive of one file with its name in it.
func tarOf(d desk, name string) string {
	d.t.Helper()
	return d.sh.Run("cd $(mktemp -d /run/tar.XXXXXX) && echo " + name + " >" + name + " && tar c " + name + " && rm -r $PWD")
}

// mountFails asks for what the kernel does not mount: this one has no NFS, or no
// server of it.
func (d desk) mountFails() {
	d.docker.Run("volume", "create", "-o", "type=nfs", "-o", "o=addr=localhost,soft,timeo=1,retrans=0", "-o", "device=:/export", "remote")
	dir := d.mountpoint("remote")
	d.fails("error while mounting volume '"+dir+"': failed to mount local volume: mount :/export:"+dir+", data: addr=127.0.0.1,soft,timeo=1,retrans=0: ",
		"true", "-v", "remote:/data")
	d.fails("error while mounting volume '"+dir+"'", "true", "-v", "remote:/data:nocopy")
	d.want(d.docker.Run("ps", "-a", "--format", "{{.Names}}"), "")
	d.docker.Run("volume", "create", "-o", "type=cifs", "-o", "o=username=u,password=hunter2", "-o", "device=//127.0.0.1/share", "share")
	_, stderr, _ := d.docker.Try("run", "--rm", "-v", "share:/data", d.busybox, "true")
	if strings.Contains(stderr, "hunter2") || !strings.Contains(stderr, "password=********,addr=127.0.0.1") {
		d.t.Errorf("a mount that fails says %q", stderr)
	}
	d.docker.Run("volume", "create", "-o", "type=nfs", "-o", "o=addr=nowhere.invalid", "-o", "device=:/export", "lost")
	d.fails("error resolving passed in network volume address", "true", "-v", "lost:/data")
	d.docker.Run("volume", "rm", "remote", "share", "lost")
}

// differingOptions asks for a volume that is there, with options.
func (d desk) differingOptions() {
	d.docker.Run("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "same")
	d.docker.Run("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "same")
	d.docker.Run("volume", "create", "same")
	d.refused("volume name must be unique", "volume", "create", "-o", "type=tmpfs", "-o", "device=none", "same")
	d.refused("volume name must be unique", "run", "--rm", "--mount", "type=volume,src=same,dst=/x,volume-opt=type=ext4,volume-opt=device=/dev/x", d.busybox, "true")
	d.refused(`plugin "other" not found`, "volume", "create", "-d", "other", "same2")
	_, stderr, err := d.docker.Try("run", "--rm", "--volume-driver", "other", "-v", "same2:/x", d.busybox, "true")
	if err == nil || !strings.Contains(stderr, `plugin "other" not found`) || strings.Contains(stderr, "Unable to find image") {
		d.t.Errorf("a volume of another driver: %v, %q", err, stderr)
	}
	if _, err := d.host.api.VolumeUpdate(d.t.Context(), "same", client.VolumeUpdateOptions{}); err == nil || !strings.Contains(err.Error(), "swarm is unavailable") {
		d.t.Errorf("update: %v", err)
	}
	d.docker.Run("volume", "rm", "same")
	out := d.run("df -k /x | awk 'END { print $2 }'",
		"--mount", "type=volume,src=made,dst=/x,volume-driver=local,volume-label=k=v,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=2m")
	d.want(out, "2048\n")
	d.want(d.docker.Run("volume", "inspect", "-f", "{{.Labels.k}}", "made"), "v\n")
	d.docker.Run("volume", "rm", "made")
}

// prune removes what nobody uses, but nothing that a volume's options name.
func (d desk) prune() {
	d.docker.Run("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "optioned")
	d.docker.Run("volume", "create", "--label", "keep", "labelled")
	d.docker.Run("volume", "create", "named")
	d.docker.Run("volume", "create", "used")
	d.start("user", "-v", "used:/used", "-v", "/anonymous")
	d.docker.Run("volume", "create", "--label", "anonymous")
	d.want(d.docker.Run("volume", "ls", "-q", "--filter", "dangling=true", "--filter", "label=keep"), "labelled\n")
	if out := d.docker.Run("volume", "prune", "-f"); strings.Contains(out, "named") || !strings.Contains(out, "Deleted Volumes:") {
		d.t.Errorf("prune says %q", out)
	}
	d.docker.Run("volume", "prune", "-f", "--all", "--filter", "label!=keep")
	d.want(d.docker.Run("volume", "ls", "-q", "--filter", "name=^[a-z]+$"), "labelled\noptioned\nused\n")
	d.remove("user")
	d.docker.Run("volume", "rm", "labelled", "optioned", "used")
}

// events tells of volumes what Docker does.
func (d desk) events() {
	since := strings.TrimSpace(d.sh.Run("date +%s.%N"))
	id := strings.TrimSpace(d.docker.Run("create", "-v", "ev:/data:ro", d.busybox, "true"))
	d.docker.Run("start", "-a", id)
	d.docker.Run("rm", id)
	d.docker.Run("volume", "create", "ev")
	d.docker.Run("volume", "rm", "ev")
	d.docker.Run("volume", "prune", "-f")
	until := strings.TrimSpace(d.sh.Run("date +%s.%N"))
	got := d.docker.Run("events", "--since", since, "--until", until, "--filter", "type=volume", "--format", "{{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}")
	d.want(got, strings.ReplaceAll(`create ev {"driver":"local"}
mount ev {"container":"ID","destination":"/data","driver":"local","propagation":"","read/write":"false"}
unmount ev {"container":"ID","driver":"local"}
destroy ev {"driver":"local"}
prune  {"reclaimed":"0"}
`, "ID", id))
}

// filling fills a volume once, and not at all if that is asked for.
func (d desk) filling() {
	layers := d.host.image("layers")
	const all = "added\nbig\ndir\nkept\nreplaced\n"
	run := func(option, script string) string {
		return d.docker.Run("run", "--rm", "--mount", "type=volume,dst=/data,"+option, layers, "sh", "-c", script)
	}
	d.want(run("src=empty,volume-nocopy", "ls -A /data"), "")
	d.want(run("src=full", "ls -A /data; rm -r /data/*; touch /data/other"), all)
	d.want(run("src=full", "ls -A /data"), "other\n")
	d.want(run("src=empty", "ls -A /data"), all)
	d.docker.Run("volume", "rm", "empty", "full")
}

// crowd makes many containers at once that all want one volume: it is filled once,
// and whole for each.
func (d desk) crowd() {
	layers := d.host.image("layers")
	const crowd = 6
	failed := make(chan error, crowd)
	for i := range crowd {
		go func() {
			out, stderr, err := d.docker.Try("run", "--rm", "-v", "crowd:/data", layers, "sh", "-c", fmt.Sprintf("ls /data && mv /data/added /data/added-%d 2>/dev/null; true", i))
			if err != nil || !strings.HasPrefix(out, "added") || strings.Count(out, "\n") != 5 {
				err = fmt.Errorf("%w: %s%s", err, out, stderr)
			}
			failed <- err
		}()
	}
	for range crowd {
		if err := <-failed; err != nil {
			d.t.Error(err)
		}
	}
	d.want(d.run("ls /x | wc -l", "-v", "crowd:/x"), "5\n")
	d.docker.Run("volume", "rm", "crowd")
}

// volumesFrom takes the mounts of others, running or not, as they are.
func (d desk) volumesFrom() {
	d.sh.Run("mkdir /run/theirs && echo theirs >/run/theirs/f")
	d.docker.Run("create", "--name", "first", "-v", "/run/theirs:/bind:ro", "-v", "shared:/named", "-v", "/anonymous",
		"--mount", "type=tmpfs,dst=/ram,tmpfs-size=1m", "--mount", "type=volume,src=sub,dst=/sub", d.busybox, "true")
	d.start("second", "-v", "other:/named", "-v", "/b")
	mounts := func(name string) string {
		lines := strings.Fields(d.docker.Run("inspect", "-f", `{{range .Mounts}}{{.Destination}}:{{.Type}}:{{if ne .Destination "/anonymous"}}{{.Name}}{{end}}:{{.RW}} {{end}}`, name))
		slices.Sort(lines)
		return strings.Join(lines, " ")
	}
	d.docker.Run("create", "--name", "third", "--volumes-from", "first", "-v", "own:/sub", d.busybox, "true")
	d.want(mounts("third"), "/anonymous:volume::true /bind:bind::false /named:volume:shared:true /ram:tmpfs::true /sub:volume:own:true")
	// Of several the last one beats the others, and ro holds for all of one.
	d.want(d.run("cat /bind/f; touch /named/x 2>/dev/null || echo ro; df -k /ram | awk 'END { print $2 }'; ls -d /b",
		"--volumes-from", "first", "--volumes-from", "second:ro"), "theirs\nro\n1024\n/b\n")
	d.want(d.run("echo through >/named/f && echo >/bind/f 2>/dev/null || echo ro", "--volumes-from", "third:z"), "ro\n")
	d.want(d.run("cat /x/f", "-v", "shared:/x"), "through\n")
	// What another still has is not removed with its owner.
	volume := strings.TrimSpace(d.docker.Run("inspect", "-f", `{{range .Mounts}}{{if eq .Destination "/anonymous"}}{{.Name}}{{end}}{{end}}`, "first"))
	d.remove("first")
	d.docker.Run("volume", "inspect", volume)
	d.remove("third")
	d.refused("no such volume", "volume", "inspect", volume)
	d.refused("No such container: nobody", "run", "--volumes-from", "nobody", d.busybox)
	d.refused("invalid mode: rw,nocopy", "run", "--volumes-from", "second:rw,nocopy", d.busybox)
	d.remove("second")
	d.docker.Run("volume", "rm", "shared", "sub", "own", "other")
	d.sh.Run("rm -r /run/theirs")
}

// anonymous removes only volumes with a container that nobody named.
func (d desk) anonymous() {
	named := strings.TrimSpace(d.docker.Run("volume", "create"))
	d.run("true", "-v", named+":/data", "--mount", "type=volume,dst=/other,volume-label=x")
	d.want(d.docker.Run("volume", "ls", "-q"), named+"\n")
	d.docker.Run("volume", "rm", named)
}

func (d desk) errors() {
	for _, c := range []struct {
		why     string
		options []string
	}{
		{"Duplicate mount point: /x", []string{"-v", "/run:/x", "-v", "v1:/x/"}},
		{"Duplicate mount point: /x", []string{"-v", "/run:/x", "--mount", "type=tmpfs,dst=/x"}},
		{"Duplicate mount point: /x", []string{"-v", "/x", "--tmpfs", "/x", "-v", "/run:/x"}},
		{"invalid mount path: 'x' mount path must be absolute", []string{"-v", "/run:x"}},
		{"destination can't be '/'", []string{"-v", "/run:/"}},
		{"includes invalid characters for a local volume name", []string{"-v", "some/dir:/x"}},
		{"volume name is too short", []string{"--mount", "type=volume,src=v,dst=/x"}},
		{"volume name is too long", []string{"-v", strings.Repeat("v", 256) + ":/x"}},
		{"invalid mode: sideways", []string{"-v", "/run:/x:sideways"}},
		{"bind source path does not exist: /run/none", []string{"--mount", "type=bind,src=/run/none,dst=/x"}},
		{"mount path must be absolute", []string{"--mount", "type=volume,src=vv,dst=x"}},
		{"must not set ReadOnly mode when using anonymous volumes", []string{"--mount", "type=volume,dst=/x,readonly"}},
		{"must not set Subpath when using anonymous volumes", []string{"--mount", "type=volume,dst=/x,volume-subpath=a"}},
		{"subpath must be a relative path within the volume", []string{"--mount", "type=volume,src=vv,dst=/x,volume-subpath=../a"}},
		{"missing required option", []string{"--mount", "type=volume,src=vv,dst=/x,volume-opt=o=bind"}},
		{`invalid option: "colour"`, []string{"--mount", "type=volume,src=vv,dst=/x,volume-opt=colour=red"}},
		{"No such image: nothing", []string{"--mount", "type=image,src=nothing:none,dst=/x"}},
		{`plugin "else" not found`, []string{"--volume-driver", "else", "-v", "vv:/x"}},
	} {
		d.fails(c.why, "true", c.options...)
	}
	d.want(d.docker.Run("volume", "ls", "-q"), "")
	d.want(d.docker.Run("ps", "-aq"), "")
}

// goneSources removes what was mounted while a container does not run.
func (d desk) goneSources() {
	d.sh.Run("mkdir /run/strict")
	d.docker.Run("create", "--name", "loose", "-v", "/run/loose/deep:/x", d.busybox, "ls", "-A", "/x")
	d.docker.Run("create", "--name", "strict", "--mount", "type=bind,src=/run/strict,dst=/x", d.busybox, "true")
	if _, err := d.host.api.create(d.t.Context(), spec{"made", d.busybox, []string{"true"}, func(_ *container.Config, hc *container.HostConfig) {
		hc.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: "/run/made", Target: "/x", BindOptions: &mount.BindOptions{CreateMountpoint: true}}}
	}}); err != nil {
		d.t.Fatal(err)
	}
	d.sh.Run("test -d /run/made && rm -r /run/loose /run/strict /run/made")
	d.docker.Run("start", "loose", "made")
	d.docker.Run("wait", "loose", "made")
	d.sh.Run("test -d /run/loose/deep && test -d /run/made")
	d.refused("bind source path does not exist: /run/strict", "start", "strict")
	d.remove("loose", "strict", "made")
	d.sh.Run("rm -r /run/loose /run/made")
}

func (d desk) tmpfs() {
	d.want(d.run(`stat -c %a /t; df -k /t | awk 'END { print $2 }'; ls -A /t; grep " /t " /proc/mounts | grep -o noexec`,
		"--mount", "type=tmpfs,dst=/t,tmpfs-size=3m,tmpfs-mode=1701"), "1701\n3072\nnoexec\n")
	d.want(d.run(`echo "echo ran" >/t/x; chmod +x /t/x; /t/x; stat -c %u /t`, "--tmpfs", "/t:exec,uid=7,size=1m"), "ran\n7\n")
	d.fails("Read-only file system", "touch /t/x", "--mount", "type=tmpfs,dst=/t,readonly")
}
