package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/runner"
)

// docker runs the stock command against the socket, and returns what it says on
// both outputs, and how it ends.
func docker(t *testing.T, socket, stdin string, args ...string) (out, errs string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + socket, "HOME=" + t.TempDir(), "PATH=/usr/local/bin:/usr/bin:/bin"}
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("docker %v: %v\n%s%s", args, err, o.String(), e.String())
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func TestDockerRun(t *testing.T) {
	e := newEngine()
	e.process = func(ctx context.Context, s runner.Streams) int {
		echo(ctx, s)
		return 42
	}
	socket, _ := serve(t, e)
	out, errs, code := docker(t, socket, "hello", "run", "-i", "--name", "box", "--memory", "64m", "--network", "bridge", "-p", "80", "-v", "/a:/b:ro", "busybox", "cat", "-v")
	if out != "out:hello" || errs != "err:hello" || code != 42 {
		t.Fatalf("%q %q %d", out, errs, code)
	}
	c := e.created
	if c.Name != "box" || c.Image != "busybox" || strings.Join(c.Cmd, " ") != "cat -v" || c.HostConfig.Memory != 64<<20 ||
		c.HostConfig.MemorySwappiness != nil || c.HostConfig.NetworkMode != "bridge" || c.HostConfig.Binds[0] != "/a:/b:ro" {
		t.Fatalf("%+v %+v", c.Config, c.HostConfig)
	}
}

func TestDockerExec(t *testing.T) {
	e := attached(echo, false)
	socket, _ := serve(t, e)
	if out, errs, code := docker(t, socket, "hello", "exec", "-i", "-e", "A=b", "box", "cat"); out != "out:hello" || errs != "err:hello" || code != 0 {
		t.Fatalf("%q %q %d", out, errs, code)
	}
	if e.exec.Env[0] != "A=b" || e.exec.Cmd[0] != "cat" {
		t.Fatalf("%+v", e.exec)
	}
	e.mu.Lock()
	e.process = func(context.Context, runner.Streams) int { return 127 }
	e.mu.Unlock()
	if out, _, code := docker(t, socket, "", "exec", "box", "none"); !strings.Contains(out, "exec failed: no such file") || code != 127 {
		t.Fatalf("%q %d", out, code)
	}
	if _, errs, code := docker(t, socket, "", "exec", "none", "x"); errs != "Error response from daemon: No such container: none\n" || code != 1 {
		t.Fatalf("%q %d", errs, code)
	}
}

// TestDockerDetach types the keys on a terminal. The command sees to them itself,
// and goes.
func TestDockerDetach(t *testing.T) {
	e := attached(func(ctx context.Context, s runner.Streams) int {
		say(t, s.Stdout, "prompt")
		in, err := io.ReadAll(s.Stdin)
		if string(in) != "abc" || err != nil {
			t.Errorf("%q %v", in, err)
		}
		<-ctx.Done()
		return 0
	}, true)
	socket, _ := serve(t, e)
	cmd := exec.CommandContext(t.Context(), "script", "-qec", "docker attach --detach-keys=ctrl-x,x box", "/dev/null")
	cmd.Env = []string{"DOCKER_HOST=unix://" + socket, "HOME=" + t.TempDir(), "PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := make([]byte, len("prompt"))
	if _, err := io.ReadFull(out, seen); err != nil || string(seen) != "prompt" {
		t.Fatalf("%q %v", seen, err)
	}
	say(t, in, "abc\x18x")
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); !strings.Contains(string(rest), "read escape sequence") {
		t.Fatalf("%v %q", err, rest)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.sizes) == 0 {
		t.Error("the terminal has no size")
	}
}

func TestDockerMisc(t *testing.T) {
	e := newEngine()
	e.pull = func(_ context.Context, req runner.PullRequest, p runner.Progress) error {
		if !strings.HasSuffix(req.Ref, "busybox:latest") {
			return runner.Errorf(runner.ErrNotFound, "manifest for %s not found: manifest unknown", req.Ref)
		}
		p.Status("latest", "Pulling from library/busybox")
		p(jsonstream.Message{ID: "abc", Status: "Downloading", Progress: &jsonstream.Progress{Current: 1, Total: 2}})
		return runner.Errorf(runner.ErrUnavailable, "the line is cut")
	}
	e.load = func(_ context.Context, r io.Reader, quiet bool, p runner.Progress) error {
		b, err := io.ReadAll(r)
		p(jsonstream.Message{Stream: fmt.Sprintf("Loaded image: %s %v\n", b, quiet)})
		return err
	}
	e.save = func(refs []string, w io.Writer) error {
		_, err := fmt.Fprintf(w, "%v", refs)
		return err
	}
	e.list = func(runner.ListOptions) ([]container.Summary, error) {
		return []container.Summary{{ID: theID, Names: []string{"/box"}, Image: "busybox", Command: "sh", State: "running", Status: "Up 1 second"}}, nil
	}
	e.kill = func(ref, signal string) error {
		return runner.Errorf(runner.ErrConflict, "container %s is not running: %s", ref, signal)
	}
	e.events = func(_, _ time.Time, _ runner.Filters) iter.Seq[events.Message] {
		return func(yield func(events.Message) bool) {
			yield(events.Message{Type: "container", Action: "start", Actor: events.Actor{ID: theID, Attributes: map[string]string{"image": "busybox"}}, TimeNano: 1e9})
		}
	}
	e.logs = func(_ context.Context, opts runner.LogOptions, s runner.Streams) error {
		say(t, s.Stdout, fmt.Sprintln(opts.Tail, opts.Follow, opts.Since.Unix()))
		say(t, s.Stderr, "error\n")
		return nil
	}
	socket, _ := serve(t, e)
	for _, c := range []struct {
		args, stdin string
		out, errs   string // what is said, in part
		code        int
	}{
		{"version -f {{.Server.Version}}/{{.Server.APIVersion}}/{{.Server.MinAPIVersion}}/{{.Client.APIVersion}}", "", "1.2.3/1.56/1.24/1.50\n", "", 0},
		{"version", "", "API version:      1.56 (minimum version 1.24)", "", 0},
		{"info -f {{.Driver}}/{{.RuncCommit.ID}}/{{.Swarm.LocalNodeState}}", "", "overlayfs/abc/\n", "", 0},
		{"ps", "", "busybox", "", 0},
		{"ps --format {{.Names}}", "", "box\n", "", 0},
		{"inspect -f {{.NetworkSettings.IPAddress}}/{{.NetworkSettings.MacAddress}}/{{.GraphDriver.Name}}/{{.Config.Hostname}}/{{.NetworkSettings.Bridge}} box", "", "172.17.0.2/02:42:ac:11:00:02/overlayfs/box/\n", "", 0},
		{"inspect a/b", "", "[]\n", "Error: No such object: a/b\n", 1},
		{"inspect 127.0.0.1:5000/lib/bb:1 -f {{.Os}}", "", "linux\n", "", 0},
		{"image inspect busybox -f {{.GraphDriver.Name}}/{{.Parent}}/{{.DockerVersion}}/{{.Config.Cmd}}", "", "overlayfs///[]\n", "", 0},
		{"images", "", "<none>", "", 0},
		{"pull busybox", "", "", "the line is cut\n", 1},
		{"pull nothing", "", "", "Error response from daemon: manifest for docker.io/library/nothing:latest not found: manifest unknown\n", 1},
		{"load", "tar", "Loaded image: tar true\n", "", 0},
		{"save a/b c", "", "[a/b c]", "", 0},
		{"kill -s INT box", "", "", "Error response from daemon: cannot kill container: box: container box is not running: INT\n", 1},
		{"events --until 2s --since 1h --format {{.Type}}/{{.Action}}/{{.Actor.Attributes.image}}", "", "container/start/busybox\n", "", 0},
		{"logs --tail 5 --since 1000 box", "", "5 false 1000\n", "error\n", 0},
		{"start none", "", "", "Error response from daemon: No such container: none\n", 1},
		{"wait none", "", "", "No such container: none\n", 1},
		{"network create x", "", "the new network\n", "", 0},
		{"network create taken", "", "", "Error response from daemon: network with name taken already exists\n", 1},
		{"service ls", "", "", `Error response from daemon: This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.` + "\n", 1},
		{"stack ls", "", "", "This node is not a swarm manager.", 1},
		{"plugin ls", "", "NAME", "", 0},
		{"network prune -f", "", "Deleted Networks:\nunused\n", "", 0},
	} {
		out, errs, code := docker(t, socket, c.stdin, strings.Fields(c.args)...)
		if !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || code != c.code {
			t.Errorf("docker %s: %q, %q, %d", c.args, out, errs, code)
		}
	}
}

// TestDockerRefused checks that a client which is refused in the middle of what it
// sends still learns why.
func TestDockerRefused(t *testing.T) {
	e := newEngine()
	e.load = func(context.Context, io.Reader, bool, runner.Progress) error {
		return runner.Errorf(runner.ErrInvalid, "this is no archive")
	}
	socket, _ := serve(t, e)
	long := strings.Repeat("x", 20<<20)
	for range 10 {
		if _, errs, code := docker(t, socket, long, "load"); errs != "Error response from daemon: this is no archive\n" || code != 1 {
			t.Fatalf("%q %d", errs, code)
		}
	}
	for _, body := range []string{long, `{"Image":"` + long + `"}`} {
		resp := request(t, socket, "POST", "/images/load", body)
		if got := text(t, resp); resp.StatusCode != http.StatusBadRequest || got != `{"message":"this is no archive"}`+"\n" {
			t.Fatalf("%d %s", resp.StatusCode, got)
		}
	}
}

// TestMobyClient drives the API by Docker's own library, the newest.
func TestMobyClient(t *testing.T) {
	e := newEngine()
	e.process = echo
	socket, _ := serve(t, e)
	c, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	ping, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || ping.APIVersion != "1.56" || c.ClientVersion() != "1.56" {
		t.Fatalf("%+v %v %s", ping, err, c.ClientVersion())
	}
	created, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "box", Config: &container.Config{Image: "busybox"}})
	if err != nil || created.ID != theID {
		t.Fatalf("%+v %v", created, err)
	}
	stream, err := c.ContainerAttach(ctx, "box", client.ContainerAttachOptions{Stdin: true, Stdout: true, Stderr: true, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	wait := c.ContainerWait(ctx, "box", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(ctx, "box", client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	say(t, stream.Conn, "x")
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(stream.Reader)
	if err != nil || string(all) != "\x01\x00\x00\x00\x00\x00\x00\x05out:x\x02\x00\x00\x00\x00\x00\x00\x05err:x" {
		t.Fatalf("%q %v", all, err)
	}
	stream.Close()
	select {
	case end := <-wait.Result:
		if end.StatusCode != 0 {
			t.Fatalf("%+v", end)
		}
	case err := <-wait.Error:
		t.Fatal(err)
	}
}
