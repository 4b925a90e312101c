package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestRetentionCommands runs the transcripts in testdata/retention: those of
// TestAdminCommands, with a registry at $SEED that seed pushes to.
func TestRetentionCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/retention",
		Setup: func(env *testscript.Env) error {
			host, r, err := startRegistry(env)
			if err != nil {
				return err
			}
			env.Setenv("SEED", host)
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["BERTH_REGISTRY"], env.Values["server"] = r, &running{}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "seed": seedCmd, "dockerlogin": dockerLoginCmd,
		},
	})
}
