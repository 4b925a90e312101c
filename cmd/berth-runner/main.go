// Command berth-runner is the agent on each host: it pulls images from
// registries, runs containers, and serves the Docker Engine API.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/runnerconfig"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the command line of this process and returns its exit code.
func Main() int { return cli.Run(context.Background(), newRootCmd()) }

const about = `Berth-runner runs containers on this host, and serves the Docker Engine API for
the docker command, Compose and every other client of it.

Start it with 'berth-runner serve', then:

  export DOCKER_HOST=unix:///run/berth/runner.sock
  docker run -d -p 8080:80 --name web localhost:5000/web
  berth-runner deploy -f compose.yaml`

func newRootCmd() *cobra.Command {
	root := cli.NewRoot("berth-runner", "Runs containers on this host, driven by the docker command", about)
	check := func(path string) error {
		_, err := runnerconfig.Load(path, os.Environ())
		return err
	}
	root.AddCommand(newStackCmds()...)
	root.AddCommand(newServeCmd(), newTrustCmd(), cli.NewVersionCmd("berth-runner", version),
		cli.NewConfigCmd("berth-runner", "BERTH_RUNNER", "/etc/berth/runner.yaml", check, runnerconfig.Example))
	return root
}
