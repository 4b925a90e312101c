package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

// TestReplicationCommands runs the transcripts in testdata/replication, with the
// commands of those in testdata/mirror, and an empty registry at $TARGET. Configurations
// are berth.yaml and, with retention and without leases, retention.yaml.
//
//	target STATUS   has $TARGET answer all requests with a status; 0 ends that
func TestReplicationCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/replication",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			status := &atomic.Int64{}
			env.Values["target"] = status
			host, err := startTarget(env, status)
			if err != nil {
				return err
			}
			env.Setenv("TARGET", host)
			config := filepath.Join(env.WorkDir, "berth.yaml")
			data, err := os.ReadFile(config)
			if err != nil {
				return err
			}
			text := strings.ReplaceAll(string(data), "TARGET", host)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				return err
			}
			text += "retention: [{repos: [\"**\"], matching: new}]\ngc: {lease: 1ms, history: 0s, moves: 0}\n"
			if err := os.WriteFile(filepath.Join(env.WorkDir, "retention.yaml"), []byte(text), 0o600); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd,
			"pushimage": pushImageCmd, "becomes": becomesCmd, "target": targetCmd,
		},
	})
}

// startTarget starts a registry that fails as it is told to.
func startTarget(env *testscript.Env, status *atomic.Int64) (string, error) {
	l, err := registry.NewLocal(env.T().(testing.TB).Context(), mem.NewBlobs(), mem.NewMeta(), registry.Options{})
	if err != nil {
		return "", err
	}
	api := registry.NewServer(l, registry.ServerOptions{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code := status.Load(); code != 0 {
			w.WriteHeader(int(code))
			return
		}
		api.ServeHTTP(w, r)
	}))
	env.Defer(func() { server.Close(); l.Close() })
	return strings.TrimPrefix(server.URL, "http://"), nil
}

func targetCmd(ts *testscript.TestScript, neg bool, args []string) {
	codes := map[string]int64{"0": 0, "403": http.StatusForbidden, "500": http.StatusInternalServerError, "503": http.StatusServiceUnavailable}
	if neg || len(args) != 1 {
		ts.Fatalf("usage: target STATUS")
	}
	code, ok := codes[args[0]]
	if !ok {
		ts.Fatalf("no status %s", args[0])
	}
	ts.Value("target").(*atomic.Int64).Store(code)
}
