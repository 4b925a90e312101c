package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/internal/config"
)

// TestAdminCommands runs the transcripts in testdata/admin.
//
//	exits CODE COMMAND...    runs a command that must end with an exit code
//	serve ARGUMENTS...       starts berth serve, and waits until it is ready; its
//	                         address is in $HOST
//	shutdown [kill]          stops it, or kills it
//	dockerlogin USER FILE    leaves credentials for $HOST where docker does; the
//	                         password is what FILE has
func TestAdminCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/admin",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd,
		},
	})
}

// running is a server that a transcript has started.
type running struct {
	process *os.Process
	gone    chan struct{} // closed when it has ended
}

var listening = regexp.MustCompile(`"listening".*"addr":"([^"]+)","for":"registry"`)

func serveCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: serve ARGUMENTS...")
	}
	path, err := exec.LookPath("berth")
	ts.Check(err)
	cmd := exec.Command(path, append([]string{"serve", "--addr", "127.0.0.1:0", "--metrics-addr", ""}, args...)...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), "BERTH_LOG_FORMAT=json")
	log, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	s := ts.Value("server").(*running)
	s.process, s.gone = cmd.Process, make(chan struct{})
	started := *s
	ts.Defer(func() { started.end(syscall.SIGTERM) })
	ready, failed := make(chan string, 1), make(chan string, 1)
	go func() {
		defer close(started.gone)
		var host string
		var text strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			text.WriteString(lines.Text() + "\n")
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				host = m[1]
			}
			if strings.Contains(lines.Text(), `"msg":"ready"`) {
				ready <- host
			}
		}
		_ = cmd.Wait()
		failed <- text.String()
	}()
	select {
	case host := <-ready:
		ts.Setenv("HOST", host)
	case text := <-failed:
		ts.Fatalf("berth serve: %s", text)
	case <-time.After(time.Minute):
		ts.Fatalf("berth serve is not ready after a minute")
	}
}

func (s *running) end(sig syscall.Signal) {
	_ = s.process.Signal(sig) // unless it has ended
	<-s.gone
}

func shutdownCmd(ts *testscript.TestScript, neg bool, args []string) {
	sig := syscall.SIGTERM
	switch {
	case neg || len(args) > 1 || len(args) == 1 && args[0] != "kill":
		ts.Fatalf("usage: shutdown [kill]")
	case len(args) == 1:
		sig = syscall.SIGKILL
	}
	ts.Value("server").(*running).end(sig)
}

func dockerLoginCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: dockerlogin USER FILE")
	}
	password := strings.TrimSpace(ts.ReadFile(args[1]))
	type entry struct {
		Auth string `json:"auth"`
	}
	text, err := json.Marshal(map[string]map[string]entry{"auths": {
		ts.Getenv("HOST"): {base64.StdEncoding.EncodeToString([]byte(args[0] + ":" + password))},
	}})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("DOCKER_CONFIG"), "config.json"), text, 0o600))
}

func TestParseDays(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90d": 90 * 24 * time.Hour, "1d": 24 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "36500d": 36500 * 24 * time.Hour,
		"": 0, "d": 0, "0d": 0, "-1d": 0, "36501d": 0, "99999999999999999999d": 0, "1.5d": 0, "90": 0, "soon": 0, "1ns": 0, "-1h": 0, "90 d": 0,
	} {
		if got, err := parseDays(s); got != want && err == nil || (err == nil) != (want != 0) {
			t.Errorf("parseDays(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
}

func TestTokenID(t *testing.T) {
	for s, want := range map[string]string{
		"abc": "abc", "berth_abc_secret": "abc", "berth_abc": "abc", "berth_": "berth_", "berth__x": "berth__x", "": "",
	} {
		if got := tokenID(s); got != want {
			t.Errorf("tokenID(%q) = %q, want %q", s, got, want)
		}
	}
}

// In a directory of somebody else nothing is made: the server could not open it.
func TestForeignDirectory(t *testing.T) {
	dir := "/" // is root's
	if os.Getuid() == 0 {
		dir = t.TempDir()
		if err := os.Chown(dir, 1, -1); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config.Default()
	cfg.Storage.Data = dir
	_, err := openLocal(t.Context(), cfg, true, t.Output())
	if err == nil || !strings.Contains(err.Error(), "belongs to user") {
		t.Errorf("got %v", err)
	}
	if made, err := os.ReadDir(dir); dir != "/" && (err != nil || len(made) > 0) {
		t.Errorf("made %v, %v", made, err)
	}
}
