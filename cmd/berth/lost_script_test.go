package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestLostCommands runs the transcripts in testdata/lost, with the commands of those in
// testdata/gc. Their configurations name a bucket and a database that they share: each
// takes another prefix and schema.
//
//	emptybucket NOTES   removes the notes below the prefix NOTES of the bucket
func TestLostCommands(t *testing.T) {
	stores := berthtest.StartStores(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/lost",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.yaml"))
			if err != nil {
				return err
			}
			for _, path := range files {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text := strings.NewReplacer("ENDPOINT", stores.S3.Endpoint, "DSN", stores.Postgres.DSN()).Replace(string(data))
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					return err
				}
			}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "pushimage": pushImageCmd,
			"emptybucket": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: emptybucket NOTES")
				}
				ts.Check(os.RemoveAll(filepath.Join(stores.S3.Dir, args[0])))
			},
		},
	})
}
