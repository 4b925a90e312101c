// Command berth is a private registry of container images, and its
// administration.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes of every command.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2 // the command line is wrong
)

func main() { os.Exit(Main()) }

// Main runs the command line of this process and returns its exit code.
func Main() int {
	root := newRootCmd()
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "berth: %s\n", strings.TrimSuffix(line, "\n"))
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintln(os.Stderr, "Run 'berth --help' or 'berth COMMAND --help' for how to use it.")
		return exitUsage
	}
	return exitError
}

// usageError says that the command line is wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "A private registry of container images",
		Long: `Berth is a private registry of container images, for docker, podman and every
other client of the OCI distribution specification.

Start it with 'berth serve', then push to it:

  docker tag mongo localhost:5000/mongo
  docker push localhost:5000/mongo`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServeCmd(), newConfigCmd(), newVersionCmd())
	root.AddCommand(newLsCmd(), newTagsCmd(), newInspectCmd(), newRmCmd(), newCopyCmd())
	usageErrors(root)
	return root
}

// usageErrors makes the errors about the number of arguments usage errors, in
// the command and all below it.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if usage := (usageError{}); err == nil || errors.As(err, &usage) {
				return err
			}
			return usageError{err}
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}
