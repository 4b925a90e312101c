// Package cli is what the command lines of the programs have in common: the exit
// codes, and how errors are told.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// The exit codes of every command.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2 // the command line is wrong
)

// Usage says that err is about the command line.
func Usage(err error) error { return usageError{err} }

type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// NewRoot makes the command of a program by itself, which shows its help and
// knows nothing but the commands that are added to it.
func NewRoot(name, short, long string) *cobra.Command {
	root := &cobra.Command{
		Use:           name,
		Short:         short,
		Long:          long,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usage(fmt.Errorf("unknown command %q", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usage(err) })
	return root
}

// Run runs the command line of this process and returns its exit code. An error
// is told on standard error, each of its lines behind the program's name.
func Run(ctx context.Context, root *cobra.Command) int {
	usageErrors(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	name := root.Name()
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, Printable(strings.TrimSuffix(line, "\n")))
	}
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(os.Stderr, "Run '%s --help' or '%s COMMAND --help' for how to use it.\n", name, name)
		return ExitUsage
	}
	return ExitError
}

// Printable keeps what others have written, such as a registry's message or a name, from
// commanding the terminal: a question mark stands for each character that is not to be
// seen.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\t' {
			return r
		}
		return '?'
	}, s)
}

// usageErrors makes the errors about the number of arguments usage errors, in
// the command and all below it.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if _, ok := errors.AsType[usageError](err); err == nil || ok {
				return err
			}
			return Usage(fmt.Errorf("%w; want: %s", err, strings.TrimSuffix(cmd.UseLine(), " [flags]")))
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}
