package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// NewVersionCmd makes the command that prints the version of a program.
func NewVersionCmd(program, version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s (%s, %s/%s)\n", program, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// NewConfigCmd makes the commands about the configuration of a program whose
// variables start with prefix: one that checks a file, and one that prints an
// example. file is the path of a file for the help.
func NewConfigCmd(program, prefix, file string, check func(path string) error, example func() []byte) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration, or print an example",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "check FILE",
			Short: "Check a configuration file and the " + prefix + "_... variables, and do nothing else",
			Long: `Check a configuration file, and the ` + prefix + `_... variables of the environment, as
'` + program + ` serve --config FILE' would. Everything that is wrong is printed, with
file, line, key and what was expected; the exit code is then 1. Other files that it
names are not looked at.`,
			Example: "  " + program + " config check " + file,
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := check(args[0]); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", args[0])
				return err
			},
		},
		&cobra.Command{
			Use:   "example",
			Short: "Print a configuration file with every key and its default",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := cmd.OutOrStdout().Write(example())
				return err
			},
		})
	return cmd
}
