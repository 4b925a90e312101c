package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestMigrateCommands runs the transcripts in testdata/migrate, with the commands of
// those in testdata/gc. new.yaml names a bucket and a database that are empty.
func TestMigrateCommands(t *testing.T) {
	stores := berthtest.StartStores(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/migrate",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			path := filepath.Join(env.WorkDir, "new.yaml")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text := strings.NewReplacer("ENDPOINT", stores.S3.Endpoint, "DSN", stores.Postgres.DSN()).Replace(string(data))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "pushimage": pushImageCmd,
		},
	})
}
