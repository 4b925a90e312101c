package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/rollout"
)

// TestRolloutCommands runs the transcripts in testdata/rollout, with the commands of those
// in testdata/gc, and
//
//	follow NODE REPOSITORY:TAG RUNNING [FAILED]   reports to $HOST what a node runs, and has
//	                                              failed to, and prints the answer
//	watching REPOSITORY:TAG N                     has N clients wait for something new
//	watched STATUS                                they all have this answer, within 5 s
func TestRolloutCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/rollout",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			env.Values["watching"] = &watching{}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd, "pushimage": pushImageCmd,
			"follow": followCmd, "watching": watchingCmd, "watched": watchedCmd,
		},
	})
}

func followCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: follow NODE REPOSITORY:TAG RUNNING [FAILED]")
	}
	r := rollout.Report{Node: args[0], Running: args[2], State: rollout.NodeRunning, Interval: rollout.Duration(time.Minute), Since: time.Now()}
	if len(args) > 3 {
		r.State, r.Target, r.Error, r.Log = rollout.NodeFailed, args[3], "web is unhealthy", []string{"starting", "panic: no"}
	}
	ref, err := rollout.ParseRef(args[1])
	ts.Check(err)
	a, err := admin.NewClient(newScriptDoer(ts), "http://"+ts.Getenv("HOST")).Follow(context.Background(), ref, r)
	ts.Check(err)
	ts.Check(json.NewEncoder(ts.Stdout()).Encode(a))
}

// watching are clients that wait.
type watching struct {
	statuses chan string
	n        int
}

func watchingCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: watching REPOSITORY:TAG N")
	}
	w := ts.Value("watching").(*watching)
	_, err := fmt.Sscan(args[1], &w.n)
	ts.Check(err)
	w.statuses = make(chan string, w.n)
	doer := newScriptDoer(ts)
	path := "http://" + ts.Getenv("HOST") + admin.Prefix + "watch/" + strings.Replace(args[0], "/", "%2F", 1)
	asked := make(chan struct{}, w.n+1)
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked <- struct{}{} }}
	get := func(query string) (string, []byte) {
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, path+query, http.NoBody)
		if err != nil {
			return err.Error(), nil
		}
		resp, err := doer.Do(req)
		if err != nil {
			return err.Error(), nil
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body) // its status says enough
		return fmt.Sprint(resp.StatusCode), body
	}
	_, body := get("?version=none")
	<-asked
	var news struct{ Version string }
	ts.Check(json.NewDecoder(bytes.NewReader(body)).Decode(&news))
	for range w.n {
		go func() {
			status, _ := get("?version=" + news.Version)
			w.statuses <- status
		}()
	}
	for range w.n {
		<-asked // so who connects later is served later
	}
}

func watchedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: watched STATUS")
	}
	w, end := ts.Value("watching").(*watching), time.After(5*time.Second)
	for range w.n {
		select {
		case got := <-w.statuses:
			if got != args[0] {
				ts.Fatalf("a client that waits is answered %s", got)
			}
		case <-end:
			ts.Fatalf("clients still wait")
		}
	}
}
