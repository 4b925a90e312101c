package api_test

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/moby/api/types/build"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// builder is an engine that builds by a function.
type builder struct {
	*engine

	build   func(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error)
	conn    func(conn net.Conn, meta map[string][]string) error
	prune   func(opts runner.BuildPruneOptions) (build.CachePruneReport, error)
	cancels []string
}

func (b *builder) Build(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
	return b.build(ctx, req, progress)
}

func (b *builder) BuildControl(_ context.Context, conn net.Conn) error { return b.conn(conn, nil) }

func (b *builder) BuildSession(_ context.Context, conn net.Conn, _ string, meta map[string][]string) error {
	return b.conn(conn, meta)
}

func (b *builder) CancelBuild(_ context.Context, id string) error {
	b.cancels = append(b.cancels, id)
	return nil
}

func (b *builder) PruneBuildCache(_ context.Context, opts runner.BuildPruneOptions) (build.CachePruneReport, error) {
	return b.prune(opts)
}

const builtID = "sha256:feedfacefeed0000000000000000000000000000000000000000000000000000"

// vertices makes what BuildKit says of steps that are over.
func vertices(names ...string) *client.SolveStatus {
	now := time.Now()
	var s client.SolveStatus
	for _, name := range names {
		s.Vertexes = append(s.Vertexes, &client.Vertex{Name: name, Digest: digest.FromString(name), Started: &now, Completed: &now})
	}
	return &s
}

// builds is a builder that takes the context, and says that steps are done.
func builds(t *testing.T, got *runner.BuildRequest, files *[]string, steps ...string) *builder {
	return &builder{engine: newEngine(), build: func(_ context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
		*got = req
		if req.Context != nil {
			*files = names(t, req.Context)
		}
		progress(vertices(steps...))
		return runner.BuildResult{ImageID: builtID}, nil
	}}
}

// names reads an archive to its end and returns what is in it.
func names(t *testing.T, r io.Reader) []string {
	t.Helper()
	var all []string
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Error(err)
			return nil
		}
		all = append(all, h.Name)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	slices.Sort(all)
	return all
}

// dockerBuild runs the command as a client without buildx.
func dockerBuild(t *testing.T, socket, stdin string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", append([]string{"build"}, args...)...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + socket, "DOCKER_BUILDKIT=0", "HOME=" + t.TempDir(), "PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

var madeUpID = regexp.MustCompile(`(?m)^( ---> .*?)([0-9a-f]{12})$`)

func TestBuildClassic(t *testing.T) {
	var got runner.BuildRequest
	var files []string
	socket, _ := serve(t, builds(t, &got, &files,
		"[1/3] FROM docker.io/library/busybox@sha256:aaaaaaaaaaaaaaa", "[2/3] RUN true", "[3/3] COPY . /"))
	dir := t.TempDir()
	for name, content := range map[string]string{
		"Other": "FROM busybox\nRUN true\nCOPY . /\nCMD [\"x\"]\n", "f": "x", "secret": "x", ".dockerignore": "secret\nOther\n.dockerignore\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, code := dockerBuild(t, socket, "", "-f", dir+"/Other", "-t", "name", "-t", "b.example/c:1", "-t", "name:latest", "--build-arg", "A=b", "--label", "l=m",
		"--no-cache", "--pull", "--target", "", "--network", "host", "--add-host", "h:1.2.3.4", "--shm-size", "1m", "--ulimit", "nofile=5:6", "--memory", "64m",
		"--cpu-shares", "3", "--cpuset-cpus", "0", "--cgroup-parent", "/p", "--cache-from", "x,y", "--platform", "linux/amd64", dir)
	out = madeUpID.ReplaceAllString(out, "${1}X")
	want := `Step 1/5 : FROM busybox
 ---> X
Step 2/5 : RUN true
 ---> Running in X
 ---> Removed intermediate container X
 ---> X
Step 3/5 : COPY . /
 ---> X
Step 4/5 : CMD ["x"]
 ---> X
Step 5/5 : LABEL l=m
 ---> X
[Warning] One or more build-args [A] were not consumed
Successfully built feedfacefeed
Successfully tagged name:latest
Successfully tagged b.example/c:1
`
	if i := strings.Index(out, "Step 1"); i < 0 || out[i:] != want || code != 0 {
		t.Errorf("%d\n%s\nwant:\n%s", code, out, want)
	}
	got.Context = nil
	if text := fmt.Sprint(files); text != "[.dockerignore Other f]" {
		t.Errorf("the context has %s", text)
	}
	said := fmt.Sprintf("%v %v %v %v %v pull=%v %v %v %v %v %v %v %v %v %v %v", got.Dockerfile, got.Names, *got.Args["A"], got.Labels, got.NoCache, got.Pull, got.NetworkMode,
		got.ExtraHosts, got.ShmSize, got.Ulimits, got.Memory, got.CPUShares, got.CPUSetCPUs, got.CgroupParent, got.CacheFrom, got.Platform)
	if said != "Other [name b.example/c:1] b map[l:m] true pull=true host [h:1.2.3.4] 1048576 [nofile=5:6] 67108864 3 0 /p [x y] linux/amd64" || !got.NoSyntax {
		t.Errorf("asked for %s", said)
	}
}

func TestBuildQuiet(t *testing.T) {
	var got runner.BuildRequest
	var files []string
	b := builds(t, &got, &files, "[1/1] FROM x")
	socket, _ := serve(t, b)
	if out, code := dockerBuild(t, socket, "FROM x\n", "-q", "-"); !strings.HasSuffix(out, "\n\n"+builtID+"\n") || code != 0 {
		t.Errorf("%d %q", code, out)
	}
	good := b.build
	b.build = func(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
		if _, err := good(ctx, req, progress); err != nil {
			return runner.BuildResult{}, err
		}
		return runner.BuildResult{}, fmt.Errorf("process %q did not complete successfully: %w", "/bin/sh -c false", &gatewaypb.ExitError{ExitCode: 3})
	}
	out, code := dockerBuild(t, socket, "FROM x\nRUN false\n", "-q", "-")
	if !strings.Contains(out, "Step 1/2 : FROM x") || !strings.Contains(out, "The command '/bin/sh -c false' returned a non-zero code: 3") || code != 3 {
		t.Errorf("%d %q", code, out)
	}
}

// TestBuildTraced is the request of clients that have BuildKit's progress over the
// API.
func TestBuildTraced(t *testing.T) {
	var got runner.BuildRequest
	var files []string
	socket, _ := serve(t, builds(t, &got, &files, "[1/1] FROM x"))
	header := base64.URLEncoding.EncodeToString([]byte(`{"r.example":{"username":"u","password":"p"}}`))
	out := text(t, request(t, socket, "POST", `/build?version=2&session=s&buildid=i&remote=client-session&outputs=[{"Type":"oci","Attrs":{"a":"b"}}]`, "", "X-Registry-Config", header))
	if !strings.Contains(out, `{"id":"moby.buildkit.trace","aux":"`) || !strings.Contains(out, `{"id":"moby.image.id","aux":{"ID":"`+builtID+`"}}`) {
		t.Error(out)
	}
	if got.Session != "s" || got.ID != "i" || got.Remote != "" || got.Context != nil || got.Auth["r.example"].Username != "u" || got.Outputs[0].Type != "oci" || got.NoSyntax {
		t.Errorf("asked for %+v", got)
	}
	// The context comes by a request of its own.
	done := make(chan string)
	go func() {
		done <- text(t, request(t, socket, "POST", "/build?version=2&buildid=upload-request:u", string(archive("Dockerfile", "FROM x\n"))))
	}()
	out = text(t, request(t, socket, "POST", "/build?version=2&remote=upload-request&buildid=u", ""))
	if sent := <-done; sent != "" || !strings.Contains(out, "moby.image.id") || fmt.Sprint(files) != "[Dockerfile]" || got.Remote != "" {
		t.Errorf("%q %q %v", sent, out, files)
	}
}

// TestBuildConnections has HTTP/2 connections handed over, with what came right
// behind the request.
func TestBuildConnections(t *testing.T) {
	b := &builder{engine: newEngine(), conn: func(conn net.Conn, meta map[string][]string) error {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil {
			_, err = fmt.Fprintf(conn, "%s%v\n", line, meta["X-Docker-Expose-Session-Uuid"])
		}
		return err
	}}
	socket, _ := serve(t, b)
	for path, meta := range map[string]string{"/grpc": "[]", "/v1.50/session": "[id]"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: id\r\n\r\nearly\n", path); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(r)
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "h2c" || string(rest) != "early\n"+meta+"\n" || err != nil {
			t.Errorf("%s: %d %q %v", path, resp.StatusCode, rest, err)
		}
	}
}

func TestBuildPrune(t *testing.T) {
	var got runner.BuildPruneOptions
	b := &builder{engine: newEngine(), prune: func(opts runner.BuildPruneOptions) (build.CachePruneReport, error) {
		got = opts
		return build.CachePruneReport{CachesDeleted: []string{"a"}, SpaceReclaimed: 5}, nil
	}}
	socket, _ := serve(t, b)
	for path, want := range map[string]string{
		"/build/prune": "{false 0 0 0 map[]}",
		`/build/prune?all=1&filters={"until":["24h"]}`:       "{true 0 0 0 map[until:[24h]]}",
		"/build/prune?keep-storage=7":                        "{false 7 0 0 map[]}",
		"/build/prune?keep-storage=7&reserved-space=8":       "{false 8 0 0 map[]}",
		"/build/prune?max-used-space=9&min-free-space=10":    "{false 0 9 10 map[]}",
		"/v1.47/build/prune?keep-storage=7&max-used-space=9": "{false 7 0 0 map[]}",
	} {
		answer := text(t, request(t, socket, "POST", path, ""))
		if said := fmt.Sprint(got); said != want || answer != `{"CachesDeleted":["a"],"SpaceReclaimed":5}`+"\n" {
			t.Errorf("%s: %s %s, want %s", path, said, answer, want)
		}
	}
	request(t, socket, "POST", "/build/cancel?id=x", "")
	if fmt.Sprint(b.cancels) != "[x]" {
		t.Error(b.cancels)
	}
}
