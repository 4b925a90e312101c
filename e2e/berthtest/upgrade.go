package berthtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Upgrade puts a program in the place of the daemon's, for the next Restart.
func (d *daemon) Upgrade(program string) { d.program = program }

// Version builds one of this module's programs as another version of it.
func Version(tb testing.TB, name, version string) string {
	tb.Helper()
	bin := filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-ldflags", "-X main.version="+version, "-o", bin, "github.com/berth-registry/berth/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s %s: %v\n%s", name, version, err, out)
	}
	return bin
}
