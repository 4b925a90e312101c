package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMirrorCommands runs the transcripts in testdata/mirror, with the commands of those
// in testdata/gc, and an empty registry at $UPSTREAM to copy from.
//
//	push-upstream ARGUMENTS...   is pushimage for $UPSTREAM
//	becomes PATTERN COMMAND...   runs a command until a line that it prints matches
func TestMirrorCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/mirror",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			host, _, err := startRegistry(env)
			if err != nil {
				return err
			}
			env.Setenv("UPSTREAM", host)
			config := filepath.Join(env.WorkDir, "berth.yaml")
			data, err := os.ReadFile(config)
			if err != nil {
				return err
			}
			text := strings.ReplaceAll(string(data), "UPSTREAM", host)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd,
			"push-upstream": pushUpstreamCmd, "becomes": becomesCmd,
		},
	})
}

// pushUpstreamCmd is pushImageCmd for $UPSTREAM.
func pushUpstreamCmd(ts *testscript.TestScript, neg bool, args []string) {
	host := ts.Getenv("HOST")
	ts.Setenv("HOST", ts.Getenv("UPSTREAM"))
	pushImageCmd(ts, neg, args)
	ts.Setenv("HOST", host)
}

// becomesTime is how long a command may take to print what it should.
const becomesTime = time.Minute

func becomesCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: becomes PATTERN COMMAND...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(becomesTime); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("no line that matches %s after %s:\n%s", args[0], becomesTime, ts.ReadFile("stdout"))
}
