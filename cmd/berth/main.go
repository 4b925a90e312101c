// Command berth is a private registry of container images, and its
// administration.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/config"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the command line of this process and returns its exit code.
func Main() int { return cli.Run(context.Background(), newRootCmd()) }

const about = `Berth is a private registry of container images, for docker, podman and every
other client of the OCI distribution specification.

Start it with 'berth serve', then push to it:

  docker tag mongo localhost:5000/mongo
  docker push localhost:5000/mongo`

func newRootCmd() *cobra.Command {
	root := cli.NewRoot("berth", "A private registry of container images", about)
	check := func(path string) error {
		c, err := config.Load(path, os.Environ())
		if err != nil {
			return err
		}
		_, err = newRules(c)
		return errors.Join(err, checkPlaces(c))
	}
	root.AddCommand(newServeCmd(), cli.NewVersionCmd("berth", version),
		cli.NewConfigCmd("berth", "BERTH", "/etc/berth.yaml", check, config.Example))
	root.AddCommand(newLsCmd(), newTagsCmd(), newInspectCmd(), newRmCmd(), newCopyCmd())
	root.AddCommand(newUserCmd(), newTokenCmd(), newPolicyCmd())
	root.AddCommand(newReadyCmd())
	root.AddCommand(newGCCmd(), newNodesCmd(), newHistoryCmd(), newRollbackCmd(), newRolloutCmd())
	root.AddCommand(newScrubCmd())
	root.AddCommand(newDuCmd(), newRetentionCmd(), newImportCmd())
	root.AddCommand(newMirrorCmd(), newReplicationCmd())
	root.AddCommand(newBackupCmd(), newRestoreCmd(), newRebuildCmd(), newMigrateCmd())
	return root
}
