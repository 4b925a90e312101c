package classic_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api/classic"
)

const image = "sha256:feedfacefeed0000000000000000000000000000000000000000000000000000"

// build plays what BuildKit says.
type build struct {
	t    *testing.T
	out  *classic.Output
	text strings.Builder
}

func begin(t *testing.T, dockerfile string, o classic.Options) *build {
	t.Helper()
	plan, err := classic.Parse("Dockerfile", []byte(dockerfile), o)
	if err != nil {
		t.Fatal(err)
	}
	return play(t, plan)
}

func play(t *testing.T, plan *classic.Plan) *build {
	b := &build{t: t}
	b.out = classic.New(plan, true, func(m jsonstream.Message) {
		b.text.WriteString(m.Stream)
		if m.Status != "" {
			fmt.Fprintf(&b.text, "%s: %s\n", m.ID, m.Status)
		}
	})
	return b
}

// steps tells of vertices: a name, and what is known of it: "wait", "run", "done",
// "cached" or "fail".
func (b *build) steps(pairs ...string) *build {
	now := time.Now()
	var s client.SolveStatus
	for i := 0; i < len(pairs); i += 2 {
		v := &client.Vertex{Name: pairs[i], Digest: digest.FromString(pairs[i])}
		if pairs[i+1] != "wait" {
			v.Started = &now
		}
		switch pairs[i+1] {
		case "done":
			v.Completed = &now
		case "cached":
			v.Completed, v.Cached = &now, true
		case "fail":
			v.Completed, v.Error = &now, "it failed"
		}
		s.Vertexes = append(s.Vertexes, v)
	}
	b.out.Update(&s)
	return b
}

func (b *build) prints(name string, stream int, text string) *build {
	b.out.Update(&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: digest.FromString(name), Stream: stream, Data: []byte(text)}}})
	return b
}

// said compares what was written, with IDs that are made up replaced by X.
func (b *build) said(want string) {
	b.t.Helper()
	got := madeUp.ReplaceAllStringFunc(b.text.String(), func(line string) string {
		if strings.HasSuffix(line, "feedfacefeed") || strings.HasSuffix(line, "aaaaaaaaaaaa") {
			return line
		}
		return line[:len(line)-12] + "X"
	})
	if got != want {
		b.t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

var madeUp = regexp.MustCompile(` ---> ([A-Z][a-z ]*)?[0-9a-f]{12}\b`)

const from = "[1/3] FROM docker.io/library/busybox:latest@sha256:aaaaaaaaaaaaaaaabbbb"

func TestSteps(t *testing.T) {
	b := begin(t, "ARG V=1\nFROM busybox\nENV A=b\nRUN echo hello && \\\n  false\nCOPY f /f\nCMD [\"x\"]\n", classic.Options{Labels: map[string]string{"b": "2", "a": "1"}})
	b.said("Step 1/8 : ARG V=1\nStep 2/8 : FROM busybox\n")
	const run, cp = "[2/3] RUN echo hello &&   false", "[3/3] COPY f /f"
	b.steps("[internal] load metadata for docker.io/library/busybox:latest", "done", from, "wait", run, "wait", cp, "wait")
	b.steps(from, "done").steps(run, "run").prints(run, 1, "hello\n").prints(run, 2, "oh\n").steps(run, "done").steps(cp, "done")
	b.out.Finish(image)
	b.said(`Step 1/8 : ARG V=1
Step 2/8 : FROM busybox
 ---> aaaaaaaaaaaa
Step 3/8 : ENV A=b
 ---> X
Step 4/8 : RUN echo hello &&   false
 ---> Running in X
hello
` + "\x1b[91moh\n\x1b[0m" + ` ---> Removed intermediate container X
 ---> X
Step 5/8 : COPY f /f
 ---> X
Step 6/8 : CMD ["x"]
 ---> X
Step 7/8 : LABEL a=1
 ---> X
Step 8/8 : LABEL b=2
 ---> feedfacefeed
`)
}

// TestOrder has the second stage done and cached before the first has begun, and
// what is printed in between kept.
func TestOrder(t *testing.T) {
	b := begin(t, `FROM busybox AS one
RUN make
FROM scratch AS none
COPY x /
FROM one AS two
RUN more
FROM busybox
WORKDIR /w
COPY --from=two /a /b
`, classic.Options{Args: map[string]*string{"LOST": nil, "http_proxy": nil}})
	const from1, run1 = "[one 1/2] FROM docker.io/library/busybox", "[one 2/2] RUN make"
	const run2, from3, dir3, copy3 = "[two 1/1] RUN more", "[stage-3 1/3] FROM docker.io/library/busybox", "[stage-3 2/3] WORKDIR /w", "[stage-3 3/3] COPY --from=two /a /b"
	b.steps(from3, "done", dir3, "cached", from1, "done", run1, "run", run2, "wait", copy3, "wait")
	b.prints(run1, 1, "a").prints(run1, 1, "b\n")
	b.said(`Step 1/7 : FROM busybox AS one
 ---> X
Step 2/7 : RUN make
 ---> Running in X
ab
`)
	b.steps(run1, "done", run2, "run", run2, "done", copy3, "done")
	b.out.Finish(image)
	b.said(`Step 1/7 : FROM busybox AS one
 ---> X
Step 2/7 : RUN make
 ---> Running in X
ab
 ---> Removed intermediate container X
 ---> X
Step 3/7 : FROM one AS two
 ---> X
Step 4/7 : RUN more
 ---> Running in X
 ---> Removed intermediate container X
 ---> X
Step 5/7 : FROM busybox
 ---> X
Step 6/7 : WORKDIR /w
 ---> Using cache
 ---> X
Step 7/7 : COPY --from=two /a /b
 ---> feedfacefeed
[Warning] One or more build-args [LOST] were not consumed
`)
}

// TestTriggers has a base image with two instructions for those who build on it.
func TestTriggers(t *testing.T) {
	b := begin(t, "FROM base\nRUN own\n", classic.Options{})
	const from, one, two, own = "[1/4] FROM docker.io/library/base@sha256:aaaaaaaaaaaa0", "[2/4] ONBUILD RUN one", "[3/4] ONBUILD RUN two", "[4/4] RUN own"
	b.steps(from, "done", one, "run", two, "wait", own, "wait").prints(one, 1, "1\n")
	b.said("Step 1/2 : FROM base\n1\n")
	b.steps(one, "done", two, "run").prints(two, 1, "2\n").steps(two, "done", own, "run").steps(own, "done")
	b.out.Finish(image)
	b.said("Step 1/2 : FROM base\n1\n2\n ---> aaaaaaaaaaaa\nStep 2/2 : RUN own\n ---> Running in X\n ---> Removed intermediate container X\n ---> feedfacefeed\n")
}

// TestUnknown has a Dockerfile that only BuildKit has seen.
func TestUnknown(t *testing.T) {
	b := play(t, nil)
	b.steps(from, "wait", "[2/3] RUN a", "wait").steps(from, "done", "[2/3] RUN a", "run").prints("[2/3] RUN a", 1, "out\n")
	b.steps("[2/3] RUN a", "done", "[3/3] COPY x y", "cached", "exporting to image", "done")
	b.out.Finish(image)
	b.said(`Step 1/3 : FROM docker.io/library/busybox:latest@sha256:aaaaaaaaaaaaaaaabbbb
 ---> X
Step 2/3 : RUN a
 ---> Running in X
out
 ---> Removed intermediate container X
 ---> X
Step 3/3 : COPY x y
 ---> Using cache
 ---> X
`)
}

// TestPull has a base image come, layer by layer.
func TestPull(t *testing.T) {
	b := begin(t, "FROM busybox\nRUN x\n", classic.Options{})
	const layer = "sha256:bbbbbbbbbbbbcccccccccccccccccccccccccccccccccccccccccccccccccccc"
	now := time.Now()
	tells := func(id string, current int64, completed *time.Time) {
		b.out.Update(&client.SolveStatus{Statuses: []*client.VertexStatus{{Vertex: digest.FromString(from), ID: id, Current: current, Total: 9, Completed: completed}}})
	}
	b.steps(from, "run")
	tells("resolve docker.io/library/busybox:latest", 0, nil)
	tells(layer, 3, nil)
	tells(layer, 9, &now)
	tells(layer, 9, &now)
	tells("extracting "+layer, 0, nil)
	tells("extracting "+layer, 0, &now)
	b.steps(from, "done")
	tells("extracting "+layer, 0, &now)
	b.said(`Step 1/2 : FROM busybox
bbbbbbbbbbbb: Downloading
bbbbbbbbbbbb: Download complete
bbbbbbbbbbbb: Extracting
bbbbbbbbbbbb: Pull complete
 ---> aaaaaaaaaaaa
Step 2/2 : RUN x
`)
}

// TestFailed ends with what the step that failed has printed.
func TestFailed(t *testing.T) {
	b := begin(t, "FROM busybox\nRUN one\nRUN two\n", classic.Options{})
	b.steps(from, "done", "[2/3] RUN one", "run").prints("[2/3] RUN one", 1, "seen\n").steps("[2/3] RUN one", "fail", "[3/3] RUN two", "wait")
	b.said("Step 1/3 : FROM busybox\n ---> aaaaaaaaaaaa\nStep 2/3 : RUN one\n ---> Running in X\nseen\n")
}

// TestSilent has BuildKit tell of nothing, as for what it finds whole in its cache.
func TestSilent(t *testing.T) {
	b := begin(t, "FROM scratch\nCOPY a /a\n", classic.Options{})
	b.out.Finish(image)
	b.said("Step 1/2 : FROM scratch\n ---> \nStep 2/2 : COPY a /a\n ---> feedfacefeed\n")
}

func TestParseErrors(t *testing.T) {
	for dockerfile, want := range map[string]string{
		"":                        "the Dockerfile (Dockerfile) cannot be empty",
		" \n\t\n":                 "the Dockerfile (Dockerfile) cannot be empty",
		"FROM x\nFETCH y\n":       "dockerfile parse error on line 2: unknown instruction: FETCH",
		"RUN x\n":                 "no build stage in current context",
		"# only\n":                "failed to parse Dockerfile: file with no instructions",
		"FROM\n":                  "FROM requires either one or three arguments",
		"FROM x\nCOPY <<EOF /a\n": "unterminated heredoc",
	} {
		_, err := classic.Parse("Dockerfile", []byte(dockerfile), classic.Options{})
		if !errors.Is(err, runner.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", dockerfile, err, want)
		}
	}
	if _, err := classic.Parse("Dockerfile", []byte("FROM x\n"), classic.Options{Target: "y"}); err == nil || err.Error() != `target stage "y" could not be found` {
		t.Error(err)
	}
}

func TestFailure(t *testing.T) {
	exit := &gatewaypb.ExitError{ExitCode: 7, Err: errors.New("exit code: 7")}
	err := classic.Failure(fmt.Errorf("process %q did not complete successfully: %w", `/bin/sh -c echo "a" >f; exit 7`, exit))
	if e, ok := errors.AsType[*jsonstream.Error](err); !ok || e.Code != 7 || err.Error() != `The command '/bin/sh -c echo "a" >f; exit 7' returned a non-zero code: 7` {
		t.Errorf("%v", err)
	}
	for _, same := range []error{nil, context.Canceled, exit, fmt.Errorf("process %q did not complete successfully: %w", "x", &gatewaypb.ExitError{ExitCode: gatewaypb.UnknownExitStatus})} {
		if got := classic.Failure(same); !errors.Is(got, same) || got != same { //nolint:errorlint // the very same
			t.Errorf("%v became %v", same, got)
		}
	}
}

// FuzzOutput has names of vertices and Dockerfiles of anyone.
func FuzzOutput(f *testing.F) {
	f.Add("FROM busybox\nRUN x\n", "[2/2] RUN x", "[1/2] FROM y")
	f.Add("ARG X=a\nFROM $X as b\nFROM b\nCOPY --from=0 a b\n", "[b 1/9] ONBUILD x", "[linux/amd64 b 999999999999/1] x")
	f.Add("FROM a\n", "[/] ", "[1/1]")
	f.Fuzz(func(t *testing.T, dockerfile, one, two string) {
		plan, err := classic.Parse("Dockerfile", []byte(dockerfile), classic.Options{Args: map[string]*string{"X": nil}})
		if err != nil {
			plan = nil
		}
		play(t, plan).steps(one, "run", two, "cached").prints(one, 1, "x").steps(one, "done").out.Finish(image)
	})
}
