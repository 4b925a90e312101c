package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"berth-runner": func() { os.Exit(Main()) }})
}

// TestScripts runs the transcripts in testdata/script.
//
//	exits CODE COMMAND...   runs a command that must end with an exit code
//	answers SOCKET          waits until the API answers there
//	socket PATH MODE        checks that a socket is there, with a mode
//	leave SOCKET            makes a socket that nobody serves
//	signal NAME             sends a signal to all that runs in the background
//	await FILE TEXT         waits until a text is in a file
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// Shorter than $WORK: it becomes part of sockets' addresses.
			env.Setenv("DIR", t.TempDir())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "answers": answersCmd, "socket": socketCmd, "leave": leaveCmd,
			"signal": signalCmd, "await": awaitCmd,
		},
	})
}

func exitsCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code = -1
		if failed, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Exec does not wrap it
			code = failed.ExitCode()
		}
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// answersCmd polls, as a client would: the socket has no other sign of life.
func answersCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: answers SOCKET")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", args[0])
	}}}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get("http://runner/_ping")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("status %s", resp.Status)
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no answer on %s: %v", args[0], err)
		}
	}
}

func socketCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: socket PATH MODE")
	}
	fi, err := os.Lstat(args[0])
	ts.Check(err)
	if got := fi.Mode().String(); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
	entries, err := os.ReadDir(filepath.Dir(args[0]))
	ts.Check(err)
	for _, e := range entries {
		if e.Name()[0] == '.' {
			ts.Fatalf("%s is left beside the socket", e.Name())
		}
	}
}

func leaveCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: leave SOCKET")
	}
	l, err := net.Listen("unix", args[0])
	ts.Check(err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

func signalCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || unix.SignalNum("SIG"+args[0]) == 0 {
		ts.Fatalf("usage: signal NAME")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(unix.SignalNum("SIG" + args[0])))
	}
}

func awaitCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && strings.Contains(string(text), args[1]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q is not in %s: %v, %s", args[1], args[0], err, text)
		}
	}
}
