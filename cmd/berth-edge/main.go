// Command berth-edge is the HTTP edge of a host: it serves host names, paths and TLS for
// the stacks that berth-runner deploys. Berth-runner starts it, tells it what to do, and
// may end without it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/deploy/edge/proxy"
	"github.com/berth-registry/berth/internal/cli"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the command line of this process and returns its exit code.
func Main() int { return cli.Run(context.Background(), newRootCmd()) }

const about = `Berth-edge serves host names, paths and TLS for the stacks that berth-runner deploys.
Berth-runner starts it and tells it what to do; there is no need to start it by hand.`

func newRootCmd() *cobra.Command {
	root := cli.NewRoot("berth-edge", "Serves host names, paths and TLS of deployed stacks", about)
	var file string
	root.Args = cobra.NoArgs
	root.RunE = func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), file) }
	root.Flags().StringVar(&file, "options", "", "read the options that berth-runner has written from this `FILE`")
	root.AddCommand(cli.NewVersionCmd("berth-edge", version))
	return root
}

// run serves until the process is told to stop.
func run(ctx context.Context, file string) error {
	if file == "" {
		return fmt.Errorf("there are no options: berth-runner starts it, if edge.http or edge.https is configured")
	}
	o, err := edge.Load(file)
	if err != nil {
		return err
	}
	// What it wrote to may be gone with the daemon.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends it at once
	return proxy.Run(ctx, o, version)
}
