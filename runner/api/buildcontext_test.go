package api_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api"
)

// archive makes an archive of names and contents. A name with an arrow is a link.
func archive(pairs ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1]))}
		if from, to, ok := strings.Cut(pairs[i], "->"); ok {
			h.Name, h.Linkname, h.Typeflag, h.Size = from, to, tar.TypeSymlink, 0
		}
		if w.WriteHeader(h) == nil && h.Size > 0 {
			_, _ = io.WriteString(w, pairs[i+1])
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// TestBuildContexts has what clients, and those who are none, send as a context.
func TestBuildContexts(t *testing.T) {
	const dockerfile = "FROM scratch\n"
	zip := func(b []byte) []byte {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(b)
		_ = w.Close()
		return z.Bytes()
	}
	pipe := func(program string, b []byte) []byte {
		cmd := exec.CommandContext(t.Context(), program, "-c")
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: apt-get install bzip2 xz-utils", program, err)
		}
		return out
	}
	plain := archive("Dockerfile", dockerfile, "f", "x")
	large := archive("big", strings.Repeat("x", 8<<20), "Dockerfile", dockerfile)
	for what, c := range map[string]struct {
		body []byte
		q    string
		want string
	}{
		"plain":                      {plain, "", "Step 1/1"},
		"gzip":                       {zip(plain), "", "Step 1/1"},
		"bzip2":                      {pipe("bzip2", plain), "", "Step 1/1"},
		"xz":                         {pipe("xz", plain), "", "Step 1/1"},
		"dot and slash":              {archive("./Dockerfile", dockerfile), "", "Step 1/1"},
		"absolute":                   {archive("/Dockerfile", dockerfile), "", "Step 1/1"},
		"above the root":             {archive("../../Dockerfile", dockerfile), "", "Step 1/1"},
		"in a directory":             {archive("a/b/File", dockerfile), "dockerfile=./a//b/File", "Step 1/1"},
		"lower case":                 {archive("dockerfile", dockerfile), "", "Step 1/1"},
		"the last of two":            {archive("Dockerfile", "FETCH x\n", "Dockerfile", dockerfile), "", "Step 1/1"},
		"a link":                     {archive("Dockerfile->else", "", "else", dockerfile), "", "Successfully built"},
		"behind much":                {large, "", "Step 1/1"},
		"much, packed":               {zip(large), "", "Step 1/1"},
		"no Dockerfile":              {archive("f", "x"), "", `{"message":"Cannot locate specified Dockerfile: Dockerfile"}`},
		"another Dockerfile":         {plain, "dockerfile=Other", `{"message":"Cannot locate specified Dockerfile: Other"}`},
		"nothing":                    {nil, "", `{"message":"Cannot locate specified Dockerfile: Dockerfile"}`},
		"an empty Dockerfile":        {archive("Dockerfile", ""), "", `{"message":"the Dockerfile (Dockerfile) cannot be empty"}`},
		"an unknown instruction":     {archive("Dockerfile", "FROM x\nFETCH y\n"), "", `{"message":"dockerfile parse error on line 2: unknown instruction: FETCH"}`},
		"no archive":                 {[]byte(strings.Repeat("no archive ", 100)), "", `{"message":"reading the build context: archive/tar: invalid tar header"}`},
		"cut off":                    {plain[:520], "", `{"message":"reading the build context: unexpected EOF"}`},
		"a large Dockerfile":         {archive("Dockerfile", strings.Repeat("#", 5<<20)), "", `{"message":"reading the build context: the Dockerfile is larger than 4 MiB"}`},
		"a stage that there is none": {plain, "target=x", `{"message":"target stage \"x\" could not be found"}`},
	} {
		t.Run(what, func(t *testing.T) {
			b := &builder{engine: newEngine(), build: func(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
				if _, err := io.Copy(io.Discard, req.Context); err != nil {
					return runner.BuildResult{}, err
				}
				progress(&client.SolveStatus{})
				if strings.HasPrefix(c.want, "{") {
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Second):
						t.Error("what cannot be built goes on")
					}
				}
				return runner.BuildResult{ImageID: builtID}, ctx.Err()
			}}
			socket, _ := serve(t, b)
			resp := request(t, socket, "POST", "/build?"+c.q, string(c.body), "Content-Type", "application/x-tar")
			if got := text(t, resp); !strings.Contains(got, c.want) || (resp.StatusCode == http.StatusOK) != !strings.HasPrefix(c.want, "{") {
				t.Errorf("%d %s, want %s", resp.StatusCode, got, c.want)
			}
		})
	}
}

// TestBuildUnread has a builder that wants nothing of the context.
func TestBuildUnread(t *testing.T) {
	b := &builder{engine: newEngine(), build: func(context.Context, runner.BuildRequest, func(*client.SolveStatus)) (runner.BuildResult, error) {
		return runner.BuildResult{}, runner.Errorf(runner.ErrUnavailable, "no place")
	}}
	socket, _ := serve(t, b)
	resp := request(t, socket, "POST", "/build", string(archive("big", strings.Repeat("x", 8<<20))))
	if got := text(t, resp); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got, "no place") {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
}

// TestBuildGone has a client that goes in the middle of the context, and one that
// goes when the context has come.
func TestBuildGone(t *testing.T) {
	whole := archive("Dockerfile", "FROM x\nRUN y\n", "big", strings.Repeat("x", 1<<20))
	for _, sent := range []int{700, len(whole)} {
		ended := make(chan error, 1)
		begun := make(chan struct{}, 1)
		b := &builder{engine: newEngine(), build: func(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
			_, err := io.Copy(io.Discard, req.Context)
			if err == nil {
				progress(vertices("[1/2] FROM x"))
				begun <- struct{}{}
				<-ctx.Done()
				err = ctx.Err()
			}
			ended <- err
			return runner.BuildResult{}, err
		}}
		socket, _ := serve(t, b)
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n%s", len(whole), whole[:sent]); err != nil {
			t.Fatal(err)
		}
		if sent == len(whole) {
			<-begun
		}
		conn.Close()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the build went on")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the build goes on")
		}
	}
}

// TestBuildRemote has contexts that are fetched.
func TestBuildRemote(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/tar":
			_, _ = w.Write(archive("Dockerfile", "FROM x\n"))
		case "/file":
			_, _ = io.WriteString(w, "FROM y\n")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	var got runner.BuildRequest
	var files []string
	socket, _ := serve(t, builds(t, &got, &files, "[1/1] FROM x"))
	for remote, want := range map[string]string{
		web.URL + "/tar":              "Step 1/1 : FROM x",
		web.URL + "/file":             "Step 1/1 : FROM y",
		web.URL + "/none":             "failed to GET " + web.URL + "/none with status 404 Not Found",
		web.URL + "/git.git#main:sub": "Step 1/1 : FROM x",
		"git@example.com:a/b":         "Step 1/1 : FROM x",
	} {
		got = runner.BuildRequest{}
		out := text(t, request(t, socket, "POST", "/build?remote="+url.QueryEscape(remote), ""))
		if !strings.Contains(out, want) {
			t.Errorf("%s: %s", remote, out)
		}
		if isGit := strings.Contains(remote, "git"); isGit != (got.Remote == remote) || isGit && got.Context != nil {
			t.Errorf("%s: asked for %q", remote, got.Remote)
		}
	}
}

// FuzzBuildContext has archives of anyone: the answer is an error or an image.
func FuzzBuildContext(f *testing.F) {
	f.Add(archive("Dockerfile", "FROM scratch\n"))
	f.Add(archive("Dockerfile->x", "", "x", "FROM scratch\n"))
	f.Add(archive("dockerfile", "")[:600])
	f.Add([]byte("\x1f\x8b\x08\x00garbage"))
	f.Add([]byte("BZh9garbage"))
	h := api.New(&builder{engine: newEngine(), build: func(_ context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
		if _, err := io.Copy(io.Discard, req.Context); err != nil {
			return runner.BuildResult{}, err
		}
		progress(&client.SolveStatus{})
		return runner.BuildResult{ImageID: builtID}, nil
	}}, api.Options{})
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/build", bytes.NewReader(body)))
		if said := w.Body.String(); w.Code == http.StatusOK != strings.Contains(said, "Successfully built") || strings.Contains(said, "panic") {
			t.Errorf("%d %s", w.Code, said)
		}
	})
}
