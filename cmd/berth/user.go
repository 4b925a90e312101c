package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
)

func newUserCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Administer the accounts that the registry keeps itself",
		Long: `Administer the accounts that the registry keeps itself. What an account may do is
said by the policy in the server's configuration: 'berth policy test' asks it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newUserAddCmd(), newUserPasswdCmd(), newUserSetCmd(), newUserRmCmd(), newUserLsCmd())
	return cmd
}

func newUserAddCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make an account",
		Long: `Make an account. Its password is asked for, or read from standard input with
--password-stdin. A robot has none: it uses API keys ('berth token create').

With --json: {"name": NAME, "robot": false, "groups": [GROUP, ...], "created":
TIME, "disabled": false}.`,
		Example: "  berth user add alice --group developers\n  berth user add ci --robot\n  pass show registry | berth user add bob --password-stdin",
		Args:    cobra.ExactArgs(1),
	}
	f := addAdminFlags(cmd)
	groups := cmd.Flags().StringArray("group", nil, "put the account into this `GROUP`; can be given more than once")
	robot := cmd.Flags().Bool("robot", false, "the account is a program's: it has no password, only API keys")
	fromStdin := addPasswordFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n := admin.NewUser{Name: args[0], Robot: *robot, Groups: *groups}
		if *robot && *fromStdin {
			return cli.Usage(errors.New("a robot has no password"))
		}
		if !*robot {
			password, err := newPassword(cmd, "Password of "+n.Name+": ", *fromStdin)
			if err != nil {
				return err
			}
			n.Password = password
		}
		return f.with(cmd.Context(), true, func(a *administration) error {
			u, err := a.CreateUser(cmd.Context(), n)
			if err != nil {
				return a.explain(err, "cannot add "+n.Name)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), u)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "added %s\n", u.Name)
			return err
		})
	}
	return cmd
}

func newUserPasswdCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "passwd NAME",
		Short: "Change the password of an account",
		Long: `Change the password of an account. It is asked for, or read from standard input
with --password-stdin. Who has signed in by the old one is signed out; API keys
stay as they are.

Without administering the registry, one can change one's own.

With --json: {"results": [{"name": NAME, "action": "changed" or "failed", "error":
MESSAGE}]}.`,
		Example: "  berth user passwd alice\n  berth user passwd alice --registry registry.example.org --username alice",
		Args:    cobra.ExactArgs(1),
	}
	f := addAdminFlags(cmd)
	fromStdin := addPasswordFlag(cmd)
	cmd.ValidArgsFunction = f.completeWith(1, userNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		password, err := newPassword(cmd, "New password of "+args[0]+": ", *fromStdin)
		if err != nil {
			return err
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			return f.each(cmd.OutOrStdout(), args, "changed", "changed the password of %s", func(name string) error {
				// The server asks for the old one if it is the caller's own.
				err := a.SetPassword(cmd.Context(), name, admin.PasswordChange{Old: a.password, Password: password})
				return a.explain(err, "cannot change the password of "+name)
			})
		})
	}
	return cmd
}

func newUserSetCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the groups of an account, disable or enable it",
		Long: `Change the groups of an account, disable or enable it. A disabled account cannot
sign in, and its API keys do not work. All of it is in force at once; who signed
in before is in the old groups until the next sign-in.

With --json it prints the account, as 'berth user add' does.`,
		Example: "  berth user set alice --group developers --group release\n  berth user set ci --disable",
		Args:    cobra.ExactArgs(1),
	}
	f := addAdminFlags(cmd)
	groups := cmd.Flags().StringArray("group", nil, "the account is in this `GROUP`, and in no other; can be given more than once")
	none := cmd.Flags().Bool("no-groups", false, "the account is in no group")
	disable := cmd.Flags().Bool("disable", false, "let nobody sign in as it")
	enable := cmd.Flags().Bool("enable", false, "let it sign in again")
	cmd.ValidArgsFunction = f.completeWith(1, userNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var change admin.UserChange
		if *disable != *enable {
			change.Disabled = disable
		}
		if len(*groups) > 0 || *none {
			change.Groups = groups
		}
		switch {
		case *disable && *enable:
			return cli.Usage(errors.New("want either --disable or --enable"))
		case *none && len(*groups) > 0:
			return cli.Usage(errors.New("want either --group or --no-groups"))
		case change == admin.UserChange{}:
			return cli.Usage(errors.New("nothing to change: want --group, --no-groups, --disable or --enable"))
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			u, err := a.ChangeUser(cmd.Context(), args[0], change)
			if err != nil {
				return a.explain(err, "cannot change "+args[0])
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), u)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s, and in %s\n", u.Name, state(u), inGroups(u.Groups))
			return err
		})
	}
	return cmd
}

func newUserRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove accounts and their API keys",
		Long: `Remove accounts and their API keys. Who has signed in as one is signed out.

With --json: {"results": [{"name": NAME, "action": "removed" or "failed", "error":
MESSAGE}, ...]}.`,
		Example: "  berth user rm alice bob",
		Args:    cobra.MinimumNArgs(1),
	}
	f := addAdminFlags(cmd)
	cmd.ValidArgsFunction = f.completeWith(0, userNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			return f.each(cmd.OutOrStdout(), args, "removed", "removed %s", func(name string) error {
				return a.explain(a.RemoveUser(cmd.Context(), name), "cannot remove "+name)
			})
		})
	}
	return cmd
}

func newUserLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the accounts",
		Long: `List the accounts that the registry keeps itself.

With --json: {"users": [...]}, each as 'berth user add' prints it.`,
		Example: "  berth user ls",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			users, err := a.Users(cmd.Context())
			if err != nil {
				return a.explain(err, "cannot list the accounts")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string][]admin.User{"users": users})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "NAME\tKIND\tGROUPS\tCREATED\tSTATE") // Flush returns what fails
			for _, u := range users {
				kind := "person"
				if u.Robot {
					kind = "robot"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(u.Name), kind, dash(strings.Join(u.Groups, ",")), ago(&u.Created, "-"), state(u))
			}
			return w.Flush()
		})
	}
	return cmd
}

func userNames(ctx context.Context, a *administration) (names []string, err error) {
	users, err := a.Users(ctx)
	for _, u := range users {
		names = append(names, u.Name)
	}
	return names, err
}

func state(u admin.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "enabled"
}

func inGroups(groups []string) string {
	switch len(groups) {
	case 0:
		return "no group"
	case 1:
		return "group " + printable(groups[0])
	}
	return "groups " + printable(strings.Join(groups, ", "))
}
