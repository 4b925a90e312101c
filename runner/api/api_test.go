package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
)

func TestPing(t *testing.T) {
	socket, _ := serve(t, newEngine())
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/_ping", "/v1.24/_ping", "/v1.56/_ping"} {
			resp := request(t, socket, method, path, "")
			want := "OK"
			if method == "HEAD" {
				want = ""
			}
			if got := text(t, resp); resp.StatusCode != http.StatusOK || got != want {
				t.Errorf("%s %s: %d %q", method, path, resp.StatusCode, got)
			}
			for k, v := range map[string]string{
				"Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false", "Swarm": "inactive",
				"Server": "Berth/1.2.3 (linux)", "Content-Type": "text/plain; charset=utf-8",
				"Cache-Control": "no-cache, no-store, must-revalidate", "Builder-Version": "2",
			} {
				if got := resp.Header.Get(k); got != v {
					t.Errorf("%s %s: %s is %q, want %q", method, path, k, got, v)
				}
			}
		}
	}
}

// TestErrors checks statuses and texts, most of them as dockerd has them.
func TestErrors(t *testing.T) {
	e := newEngine()
	e.kill = func(string, string) error {
		return runner.Errorf(runner.ErrConflict, "container %s is not running", theID)
	}
	e.pull = func(context.Context, runner.PullRequest, runner.Progress) error {
		return runner.Errorf(runner.ErrNotFound, "manifest for x:y not found: manifest unknown")
	}
	e.list = func(runner.ListOptions) ([]container.Summary, error) { return nil, errors.New("broken") }
	socket, _ := serve(t, e)
	const manager = `This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.`
	long := strings.Repeat("x", 9<<20)
	for _, c := range []struct {
		method, path, body string
		code               int
		message            string
	}{
		{"GET", "/nothing", "", 404, "page not found"},
		{"GET", "/v1.99/nothing", "", 404, "page not found"},
		{"PUT", "/info", "", 404, "page not found"},
		{"HEAD", "/info", "", 404, ""},
		{"GET", "/v1.99/info", "", 400, "client version 1.99 is too new. Maximum supported API version is 1.56"},
		{"GET", "/v1.12/_ping", "", 400, "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"POST", "/v1.24/containers/prune", "", 404, "page not found"},
		{"DELETE", "/images/", "", 400, "image name cannot be blank"},
		{"DELETE", "/containers/", "", 400, "bad parameter: name cannot be empty"},
		{"GET", "/containers/json?filters=x", "", 400, "invalid filter: invalid character 'x' looking for beginning of value"},
		{"GET", "/containers/json?limit=x", "", 400, `invalid value for limit: strconv.Atoi: parsing \"x\": invalid syntax`},
		{"GET", "/containers/json?a=%zz", "", 400, `invalid URL escape \"%zz\"`},
		{"GET", "/containers/json", "", 500, "broken"},
		{"GET", `/v1.55/containers/json?filters={"annotation":["a"]}`, "", 400, "invalid filter 'annotation'"},
		{"GET", `/v1.56/containers/json?filters={"annotation":["a"]}`, "", 500, "broken"},
		{"GET", "/v1.54/images/busybox/attestations", "", 404, "page not found"},
		{"GET", "/images/none/attestations", "", 404, "No such image: none"},
		{"GET", "/images/busybox/attestations?platform=amd64", "", 400, "failed to parse platform: invalid character 'a' looking for beginning of value"},
		{"GET", `/images/busybox/attestations?platform={"os":"linux","architecture":"riscv64"}`, "", 404, "No such image: busybox"},
		{"GET", `/images/busybox/attestations?platform={"os":"linux","architecture":"amd64"}&platform={"os":"linux","architecture":"arm64"}`, "", 400, "multiple platform parameters are not supported"},
		{"GET", "/images/busybox/attestations?type=", "", 400, "invalid value for type: a predicate type cannot be empty"},
		{"GET", "/images/json?identity=1", "", 400, "conflicting options: identity requires manifests=1"},
		{"POST", `/v1.51/images/load?platform={"os":"linux","architecture":"amd64"}&platform={"os":"linux","architecture":"arm64"}`, "", 400, "multiple platform parameters are not supported in this API version; use API version 1.52 or later"},
		{"GET", "/containers/none/json", "", 404, "No such container: none"},
		{"POST", "/containers/box/start", `{"x":"12345"}`, 400, "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"},
		{"POST", "/containers/none/start", "", 404, "No such container: none"},
		{"POST", "/containers/box/start?checkpoint=x", "", 501, "checkpointing is not supported by Berth"},
		{"POST", "/containers/box/start", "{}", 204, ""},
		{"POST", "/containers/box/start", "", 304, ""},
		{"POST", "/containers/box/stop?t=x", "", 400, `invalid value for t: strconv.Atoi: parsing \"x\": invalid syntax`},
		{"POST", "/containers/box/kill", "", 409, "cannot kill container: box: container " + theID + " is not running"},
		{"POST", "/containers/box/wait?condition=x", "", 400, `invalid condition: \"x\"`},
		{"POST", "/containers/box/resize?h=1", "", 400, `invalid resize width \"\": invalid syntax`},
		{"POST", "/containers/box/resize?h=1&w=70000", "", 400, `invalid resize width \"70000\": value out of range`},
		{"POST", "/containers/box/rename", "", 400, "Neither old nor new names may be empty"},
		{"POST", "/containers/box/rename?name=-x", "", 400, "Error when allocating new name: Invalid container name (/-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		{"GET", "/containers/box/archive", "", 400, "bad parameter: path cannot be empty"},
		{"POST", "/containers/create", "", 400, "invalid JSON: got EOF while reading request body"},
		{"POST", "/containers/create", "{", 400, "invalid JSON: unexpected end of JSON input"},
		{"POST", "/containers/create", "{}x", 400, "invalid JSON: invalid character 'x' after top-level value"},
		{"POST", "/containers/create", "{}", 400, "config cannot be empty in order to create a container"},
		{"POST", "/containers/create", `{"Image":"` + long + `"}`, 400, "reading the request body: it is larger than 4 MiB"},
		{"POST", "/containers/create", strings.Repeat("[", 100000), 400, "invalid JSON: invalid character '[' exceeded max depth"},
		{"POST", "/containers/create?name=xy", `{"Image":"absent"}`, 404, "No such image: absent:latest"},
		{"POST", "/containers/create?name=xy", `{"Image":"UPPER"}`, 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
		{"POST", "/containers/create?name=a/b", `{"Image":"x"}`, 400, "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		{"POST", "/containers/create", `{"Image":""}`, 400, "invalid reference format"},
		{"POST", "/swarm/leave", "", 503, "This node is not part of a swarm"},
		{"POST", "/containers/create?name=x", `{"Image":"x"}`, 400, "Invalid container name (x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		{"POST", "/containers/create?platform=a/b/c/d", `{"Image":"x"}`, 400, `\"a/b/c/d\": cannot parse platform specifier: invalid argument`},
		{"GET", "/images/a/b/json", "", 404, "No such image: a/b"},
		{"GET", "/images/x/json?platform=x", "", 400, "failed to parse platform: invalid character 'x' looking for beginning of value"},
		{"GET", `/images/x/json?platform={"os":"linux"}`, "", 400, "both OS and Architecture must be provided"},
		{"POST", "/images/x/tag", "", 400, "repository name must have at least one component"},
		{"POST", "/images/x/tag?repo=sha256", "", 400, "refusing to create an ambiguous tag using digest algorithm as name"},
		{"POST", "/images/x/tag?repo=x&tag=a/b", "", 400, "invalid tag format"},
		{"POST", "/images/create?fromImage=UPPER", "", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
		{"POST", "/images/create?fromImage=scratch&tag=latest", "", 403, "'scratch' is a reserved name"},
		{"POST", "/images/create?fromImage=x&tag=y", "", 404, "manifest for x:y not found: manifest unknown"},
		{"POST", "/images/create", "", 400, "neither fromImage nor fromSrc is given"},
		{"POST", "/images/x@sha256:" + theID + "/push", "", 400, "cannot push a digest reference"},
		{"GET", "/events?since=2&until=1", "", 400, "`since` time (2) cannot be after `until` time (1)"},
		{"GET", "/events?since=x", "", 400, `invalid value for since: strconv.ParseInt: parsing \"x\": invalid syntax`},
		{"GET", "/networks/x", "", 404, "network x not found"},
		{"GET", "/volumes/x", "", 404, "get x: no such volume"},
		{"GET", "/plugins/x/y/json", "", 404, `plugin \"x/y\" not found`},
		{"POST", "/build?version=3", "", 400, `invalid version \"3\"`},
		{"POST", "/build?squash=1", "", 400, "squash is only supported with experimental mode"},
		{"POST", "/build?securityopt=x", "", 400, "security options are not supported on linux"},
		{"POST", "/build?isolation=hyperv", "", 400, `unsupported isolation: \"hyperv\"`},
		{"POST", "/build?remote=client-session", "", 400, "experimental session with v1 builder is no longer supported, use builder version v2 (BuildKit) instead"},
		{"POST", "/build?remote=ftp://x/y", "", 400, "remoteURL (ftp://x/y) could not be recognized as URL"},
		{"POST", "/build?t=UPPER", "", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
		{"POST", "/build?t=x@sha256:" + theID, "", 400, "build tag cannot contain a digest"},
		{"POST", "/build?memory=x", "", 400, `invalid value for memory: strconv.ParseInt: parsing \"x\": invalid syntax`},
		{"POST", "/build?buildargs=x", "", 400, "error reading build args: invalid character 'x' looking for beginning of value"},
		{"POST", "/build?labels=[]", "", 400, "error reading labels: json: cannot unmarshal array into Go value of type map[string]string"},
		{"POST", "/build?ulimits=[null]", "", 400, "error reading ulimit settings: number 0 is null"},
		{"POST", "/build?cachefrom=x", "", 400, "error reading cache-from: invalid character 'x' looking for beginning of value"},
		{"POST", "/build?outputs=x&version=2", "", 400, "invalid outputs specified: invalid character 'x' looking for beginning of value"},
		{"POST", "/build?platform=a/b/c/d", "", 400, `\"a/b/c/d\": cannot parse platform specifier: invalid argument`},
		{"POST", "/build/cancel", "", 400, "build ID not provided"},
		{"POST", "/build/prune?keep-storage=x", "", 400, `invalid value for keep-storage: strconv.ParseInt: parsing \"x\": invalid syntax`},
		{"POST", `/build/prune?filters={"color":["red"]}`, "", 400, "invalid filter 'color'"},
		{"POST", "/session", "", 400, "no upgrade proto in request"},
		{"POST", "/v1.24/session", "", 404, "page not found"},
		{"POST", "/networks/create", "", 400, "invalid JSON: got EOF while reading request body"},
		{"POST", "/networks/x/connect", "", 400, "invalid JSON: got EOF while reading request body"},
		{"DELETE", "/networks/x", "", 404, "network x not found"},
		{"GET", "/swarm", "", 503, manager},
		{"PUT", "/volumes/x", "", 503, "volume update only valid for cluster volumes, but swarm is unavailable"},
		{"GET", "/services/x", "", 503, manager},
		{"POST", "/auth", "x", 400, "invalid X-Registry-Auth header: invalid JSON: invalid character 'x' looking for beginning of value"},
	} {
		resp := request(t, socket, c.method, c.path, c.body)
		want := ""
		if c.message != "" {
			want = `{"message":"` + c.message + `"}` + "\n"
			if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("%s %s: content type %q", c.method, c.path, ct)
			}
		}
		if got := text(t, resp); resp.StatusCode != c.code || got != want {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, resp.StatusCode, got, c.code, want)
		}
	}
	resp := request(t, socket, "POST", "/containers/create", `{"Image":"x"}`, "Content-Type", "text/plain")
	if got := text(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(got, "unsupported Content-Type header (text/plain): must be 'application/json'") {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
}

// TestWait checks that a client learns that the engine waits before it is over.
func TestWait(t *testing.T) {
	e := newEngine()
	ends := make(chan container.WaitResponse)
	e.wait = func(_ context.Context, until container.WaitCondition) (<-chan container.WaitResponse, error) {
		if until != container.WaitConditionRemoved {
			t.Errorf("until %s", until)
		}
		return ends, nil
	}
	socket, _ := serve(t, e)
	resp := request(t, socket, "POST", "/v1.50/containers/box/wait?condition=removed", "") // has the headers
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatal(resp.Status)
	}
	ends <- container.WaitResponse{StatusCode: 7}
	if got := text(t, resp); got != `{"StatusCode":7}`+"\n" {
		t.Fatal(got)
	}
	// Before 1.34 a failure to remove was said by nothing.
	resp = request(t, socket, "POST", "/v1.33/containers/box/wait?condition=removed", "")
	ends <- container.WaitResponse{Error: &container.WaitExitError{Message: "x"}}
	if got := text(t, resp); got != "" {
		t.Fatal(got)
	}
}

func TestProgress(t *testing.T) {
	e := newEngine()
	second := make(chan struct{})
	e.pull = func(_ context.Context, req runner.PullRequest, p runner.Progress) error {
		if req.Ref != "reg.io:5000/a/b:1" || req.All || req.Platform != "linux/arm64" || req.Auth == nil || req.Auth.Username != "u" {
			t.Errorf("%+v %+v", req, req.Auth)
		}
		p(jsonstream.Message{ID: "layer", Status: "Downloading", Progress: &jsonstream.Progress{Current: 1000, Total: 2000}})
		<-second
		p.Status("", "more")
		return runner.Errorf(runner.ErrUnavailable, "the registry is away")
	}
	socket, _ := serve(t, e)
	resp := request(t, socket, "POST", "/images/create?fromImage=reg.io:5000/a/b&tag=1&platform=linux/arm64", "", "X-Registry-Auth", "eyJ1c2VybmFtZSI6InUifQ==")
	r := bufio.NewReader(resp.Body)
	line := func() string {
		s, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatal(resp.Status)
	}
	want := `{"status":"Downloading","progressDetail":{"current":1000,"total":2000},"id":"layer","progress":"[=========================>                         ]      1kB/2kB"}` + "\n"
	if got := line(); got != want {
		t.Fatal(got)
	}
	close(second) // only now, when the first has come
	if got := line(); got != `{"status":"more"}`+"\n" {
		t.Fatal(got)
	}
	if got := line(); got != `{"errorDetail":{"message":"the registry is away"},"error":"the registry is away"}`+"\n" {
		t.Fatal(got)
	}

	// Credentials that cannot be read are none.
	for _, auth := range []string{"e30=", "!", ""} {
		e.pull = func(_ context.Context, req runner.PullRequest, _ runner.Progress) error {
			if req.Auth != nil || !req.All || req.Ref != "x" {
				t.Errorf("%q: %+v", auth, req)
			}
			return nil
		}
		resp := request(t, socket, "POST", "/images/create?fromImage=x:", "", "X-Registry-Auth", auth)
		if got := text(t, resp); resp.StatusCode != http.StatusOK || got != "" {
			t.Fatalf("%d %s", resp.StatusCode, got)
		}
	}
}

func TestEvents(t *testing.T) {
	e := newEngine()
	happened := make(chan events.Message)
	e.events = func(since, until time.Time, f runner.Filters) iter.Seq[events.Message] {
		if since.Unix() != 100 || !until.IsZero() || len(f["type"]) != 1 {
			t.Errorf("%v %v %v", since, until, f)
		}
		return func(yield func(events.Message) bool) {
			for range 2 {
				if !yield(<-happened) {
					return
				}
			}
		}
	}
	m := events.Message{Type: "container", Action: "start", Actor: events.Actor{ID: "i", Attributes: map[string]string{"image": "b"}}, TimeNano: 5}
	for _, c := range []struct{ version, accept, media, want string }{
		{"/v1.50", "", "application/json", `{"status":"start","id":"i","from":"b","Type":"container","Action":"start","Actor":{"ID":"i","Attributes":{"image":"b"}},"timeNano":5}` + "\n"},
		{"", "application/jsonl, application/x-ndjson;q=0.5", "application/jsonl", `{"Type":"container"`},
		{"", "application/json-seq", "application/json-seq", "\x1e" + `{"Type":"container"`},
		{"", "text/html, */*", "application/json", `{"Type":"container"`},
		{"/v1.51", "application/x-ndjson", "application/x-ndjson", `{"status":"start"`},
	} {
		resp := request(t, socketOf(t, e), "GET", c.version+`/events?since=100&filters={"type":{"container":true}}`, "", "Accept", c.accept)
		if got := resp.Header.Get("Content-Type"); got != c.media {
			t.Errorf("%s: %s", c.accept, got)
		}
		happened <- events.Message{Type: "image", Action: "create"}
		happened <- m
		r := bufio.NewReader(resp.Body)
		first, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(second, c.want) {
			t.Errorf("%s: %q after %q, %v, want %q", c.accept, second, first, err, c.want)
		}
	}
}

func TestAttestations(t *testing.T) {
	socket, _ := serve(t, newEngine())
	resp := request(t, socket, "GET", `/images/busybox/attestations?statement=1&type=https://spdx.dev/Document&platform={"os":"linux","architecture":"amd64"}`, "")
	if got := text(t, resp); resp.StatusCode != http.StatusOK || got != "[]\n" {
		t.Errorf("%d %q", resp.StatusCode, got)
	}
}

func socketOf(t *testing.T, e *engine) string {
	socket, _ := serve(t, e)
	return socket
}

// TestBrokenArchive checks that half an archive does not look like a whole one.
func TestBrokenArchive(t *testing.T) {
	e := newEngine()
	fail := func(w io.Writer) error {
		if _, err := io.WriteString(w, strings.Repeat("x", 100000)); err != nil {
			return err
		}
		return errors.New("disk on fire")
	}
	e.save = func(_ []string, w io.Writer) error { return fail(w) }
	socket, _ := serve(t, e)
	resp := request(t, socket, "GET", "/images/a/b/get", "")
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	e.save = func(refs []string, _ io.Writer) error {
		return runner.Errorf(runner.ErrNotFound, "No such image: %s", refs)
	}
	resp = request(t, socket, "GET", "/images/get?names=a&names=b", "")
	if got := text(t, resp); resp.StatusCode != http.StatusNotFound || got != `{"message":"No such image: [a b]"}`+"\n" {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
}

// TestSlowClient checks that clients which send or read nothing keep nobody
// waiting.
func TestSlowClient(t *testing.T) {
	e := newEngine()
	e.save = func(_ []string, w io.Writer) error {
		for range 1000 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
		return nil
	}
	socket, _ := serve(t, e)
	for range 50 {
		for _, head := range []string{
			"GET /images/a/get HTTP/1.1\r\nHost: d\r\n\r\n",
			"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
			"GET /_ping HTT",
		} {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := time.Now()
	if resp := request(t, socket, "GET", "/_ping", ""); resp.StatusCode != http.StatusOK || time.Since(start) > 5*time.Second {
		t.Fatal(resp.Status, time.Since(start))
	}
}

func TestArchive(t *testing.T) {
	e := newEngine()
	stat := container.PathStat{Name: "x", Size: 3, Mtime: time.Unix(1, 0).UTC()}
	e.get = func(path string) (io.ReadCloser, container.PathStat, error) {
		if path != "/a b" {
			return nil, stat, runner.Errorf(runner.ErrNotFound, "Could not find the file %s in container box", path)
		}
		return io.NopCloser(strings.NewReader("tar")), stat, nil
	}
	e.put = func(path string, opts runner.ArchiveOptions, r io.Reader) error {
		b, err := io.ReadAll(r)
		if path != "/p" || !opts.NoOverwriteDirNonDir || opts.CopyUIDGID || string(b) != "tar" {
			t.Errorf("%s %+v %q %v", path, opts, b, err)
		}
		return nil
	}
	socket, _ := serve(t, e)
	const header = "eyJuYW1lIjoieCIsInNpemUiOjMsIm1vZGUiOjAsIm10aW1lIjoiMTk3MC0wMS0wMVQwMDowMDowMVoiLCJsaW5rVGFyZ2V0IjoiIn0="
	for _, method := range []string{"GET", "HEAD"} {
		resp := request(t, socket, method, "/containers/box/archive?path=/a%20b", "")
		if got := resp.Header.Get("X-Docker-Container-Path-Stat"); got != header || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", method, resp.StatusCode, got)
		}
		if got := text(t, resp); method == "GET" && (got != "tar" || resp.Header.Get("Content-Type") != "application/x-tar") {
			t.Errorf("%q %v", got, resp.Header)
		}
		resp = request(t, socket, method, "/containers/box/archive?path=/none", "")
		if resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Docker-Container-Path-Stat") != "" {
			t.Errorf("%s: %d %v", method, resp.StatusCode, resp.Header)
		}
	}
	resp := request(t, socket, "PUT", "/containers/box/archive?path=/p&noOverwriteDirNonDir=true", "tar", "Content-Type", "application/x-tar")
	if got := text(t, resp); resp.StatusCode != http.StatusOK || got != "" {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
}

// TestLoad checks that messages may come before the archive has been read.
func TestLoad(t *testing.T) {
	e := newEngine()
	e.load = func(_ context.Context, r io.Reader, quiet bool, p runner.Progress) error {
		p.Status("", "begun")
		n, err := io.Copy(io.Discard, r)
		p.Status("", fmt.Sprint(n, quiet))
		return err
	}
	socket, _ := serve(t, e)
	resp := request(t, socket, "POST", "/images/load?quiet=0", strings.Repeat("x", 5<<20))
	if got := text(t, resp); got != `{"status":"begun"}`+"\n"+`{"status":"5242880 false"}`+"\n" {
		t.Fatal(got)
	}
}

// TestImport imports from the request and from another server.
func TestImport(t *testing.T) {
	e := newEngine()
	e.imp = func(req runner.ImportRequest, r io.Reader) (string, error) {
		b, err := io.ReadAll(r)
		return fmt.Sprintf("%s:%s %s %v %s", req.Repo, req.Tag, req.Message, req.Changes, b), err
	}
	socket, _ := serve(t, e)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	files := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/f.tar" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "there")
	})}
	go func() { _ = files.Serve(l) }()
	defer files.Close()
	from := l.Addr().String()
	for _, c := range []struct{ query, body, want string }{
		{"fromSrc=-&repo=r:t&changes=A&changes=B", "here", `{"status":"r:t Imported from - [A B] here"}`},
		{"fromSrc=" + from + "/f.tar&repo=r&message=m", "", `{"status":"Downloading from http://` + from + `/f.tar"}` + "\n" + `{"status":"r:latest m [] there"}`},
		{"fromSrc=http://" + from + "/none", "", `{"message":"failed to GET http://` + from + `/none with status 404 Not Found"}`},
	} {
		resp := request(t, socket, "POST", "/images/create?"+c.query, c.body)
		if got := text(t, resp); got != c.want+"\n" {
			t.Errorf("%s: %d %s", c.query, resp.StatusCode, got)
		}
	}
}
