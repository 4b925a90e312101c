package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/registry/remote"
)

// TestCollectorCommands runs the transcripts in testdata/gc, with the commands of those
// in testdata/admin, and
//
//	pushimage REPOSITORY:TAG TEXT VARIABLE   pushes an image to $HOST; the variable is
//	                                         its digest then
//	report NODE TTL REPOSITORY DIGEST        reports to $HOST that a node runs a manifest
func TestCollectorCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/gc",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd,
			"pushimage": pushImageCmd, "report": reportCmd,
		},
	})
}

// scriptDoer sends requests with the credentials that a transcript has left for docker.
type scriptDoer struct{ auth string }

func newScriptDoer(ts *testscript.TestScript) scriptDoer {
	data, err := os.ReadFile(filepath.Join(ts.Getenv("DOCKER_CONFIG"), "config.json"))
	if err != nil {
		return scriptDoer{}
	}
	var c struct {
		Auths map[string]struct{ Auth string }
	}
	ts.Check(json.Unmarshal(data, &c))
	return scriptDoer{c.Auths[ts.Getenv("HOST")].Auth}
}

func (d scriptDoer) Do(r *http.Request) (*http.Response, error) {
	if d.auth != "" {
		r.Header.Set("Authorization", "Basic "+d.auth)
	}
	return http.DefaultClient.Do(r)
}

// pushImageCmd pushes an image whose one layer is a text to $HOST, and sets a variable to
// its digest.
func pushImageCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pushimage REPOSITORY:TAG TEXT VARIABLE")
	}
	c, err := remote.New("http://"+ts.Getenv("HOST"), newScriptDoer(ts))
	ts.Check(err)
	repo, tag, _ := strings.Cut(args[0], ":")
	s := &seeder{ts: ts, r: c, repo: repo}
	ts.Setenv(args[2], string(s.image(args[1], nil, tag).Digest))
}

// reportCmd reports to $HOST that a node runs a manifest, and prints the answer.
func reportCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: report NODE TTL REPOSITORY DIGEST")
	}
	type running struct {
		Repo   string `json:"repository"`
		Digest string `json:"digest"`
	}
	body, err := json.Marshal(map[string]any{"ttl": args[1], "running": []running{{args[2], args[3]}}})
	ts.Check(err)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+ts.Getenv("HOST")+"/api/v1/nodes/"+args[0], bytes.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := newScriptDoer(ts).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	_, _ = ts.Stdout().Write(answer)
	if (resp.StatusCode >= 300) != neg {
		ts.Fatalf("%s: %s", resp.Status, answer)
	}
}
