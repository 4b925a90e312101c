package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/config"
)

func newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration, or print an example",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "check FILE",
			Short: "Check a configuration file and the BERTH_... variables, and do nothing else",
			Long: `Check a configuration file, and the BERTH_... variables of the environment, as
'berth serve --config FILE' would. Everything that is wrong is printed, with
file, line, key and what was expected; the exit code is then 1.`,
			Example: "  berth config check /etc/berth.yaml",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if _, err := config.Load(args[0], os.Environ()); err != nil {
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
				_, err := cmd.OutOrStdout().Write(config.Example())
				return err
			},
		})
	return cmd
}
