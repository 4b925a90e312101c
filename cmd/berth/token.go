package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
)

func newTokenCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Administer API keys, and the keys that sign tokens",
		Long: `Administer API keys, and the keys that sign tokens. An API key is what programs
use in place of a password: as that of 'docker login', or as a bearer token.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreateCmd(), newTokenLsCmd(), newTokenRmCmd(), newTokenRotateCmd())
	return cmd
}

// tokenFlags say what an API key is to be.
type tokenFlags struct {
	account        string
	repos, actions []string
	expires, note  string
}

func newTokenCreateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --repo PATTERN...",
		Short: "Make an API key",
		Long: `Make an API key and print it: it is shown this once. It may do what --actions and
--repo say, and never more than its account may by then. It works until --expires,
until it is revoked ('berth token rm') or its account is removed or disabled.

With --json: {"id": ID, "account": NAME, "source": SOURCE, "grants": [{"repos":
PATTERN, "actions": [ACTION, ...]}, ...], "created": TIME, "expires": TIME, "note":
TEXT, "secret": KEY}.`,
		Example: `  berth token create --for ci --repo 'team/*' --actions pull,push --expires 90d
  berth token create --for ci --repo '**' --note "nightly scan" | docker login localhost:5000 --username ci --password-stdin`,
		Args: cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	var t tokenFlags
	cmd.Flags().StringVar(&t.account, "for", "", "the `ACCOUNT` whose key it is; with --registry, one's own if it is left out")
	cmd.Flags().StringArrayVar(&t.repos, "repo", nil, "it is for the repositories that this `PATTERN` matches, such as 'team/**'; can be given more than once")
	cmd.Flags().StringSliceVar(&t.actions, "actions", []string{"pull"}, "what it may do there: pull, push, delete, admin")
	cmd.Flags().StringVar(&t.expires, "expires", "90d", "how long it works, such as 12h or 90d, or never")
	cmd.Flags().StringVar(&t.note, "note", "", "what it is for, as `TEXT` for 'berth token ls'")
	f.completeFlag("for", userNames)
	_ = cmd.RegisterFlagCompletionFunc("actions", cobra.FixedCompletions([]string{"pull", "push", "delete", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := t.read(time.Now())
		if err != nil {
			return cli.Usage(err)
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			if a.local && n.Account == "" {
				return cli.Usage(errors.New("whose key is it? Say --for ACCOUNT"))
			}
			made, err := a.CreateToken(cmd.Context(), n)
			if err != nil {
				return a.explain(err, "cannot make an API key")
			}
			return f.showToken(made, a.host)
		})
	}
	return cmd
}

// completeFlag completes the value of a flag with what list lists.
func (f *adminFlags) completeFlag(name string, list func(context.Context, *administration) ([]string, error)) {
	_ = f.cmd.RegisterFlagCompletionFunc(name, f.completeWith(0, list)) // the flag is there
}

// read makes a request of the flags.
func (t tokenFlags) read(now time.Time) (n admin.NewToken, err error) {
	if len(t.repos) == 0 {
		return n, errors.New("what is it for? Say --repo PATTERN; '**' is all repositories")
	}
	n = admin.NewToken{Account: t.account, Note: t.note}
	for _, repos := range t.repos {
		n.Grants = append(n.Grants, admin.Grant{Repos: repos, Actions: t.actions})
	}
	if t.expires == "never" {
		n.Never = true
		return n, nil
	}
	d, err := parseDays(t.expires)
	if err != nil {
		return n, fmt.Errorf("--expires: %w", err)
	}
	expires := now.Add(d).UTC().Truncate(time.Second)
	n.Expires = &expires
	return n, nil
}

// parseDays reads a duration, which can be in days.
func parseDays(s string) (time.Duration, error) {
	const day, most = 24 * time.Hour, 36500
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		if n > most {
			return 0, fmt.Errorf("%q is more than 100 years: do you mean never?", s)
		}
		d = time.Duration(n) * day
	}
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is no duration: want one such as 12h or 90d, or never", s)
	}
	return d, nil
}

// showToken prints a new key alone where a program reads it, and beside it what a
// user needs to know.
func (f *adminFlags) showToken(t admin.Token, host string) error {
	if f.json {
		return printJSON(f.cmd.OutOrStdout(), t)
	}
	_, err := fmt.Fprintln(f.cmd.OutOrStdout(), printable(t.Secret))
	expires := "never expires"
	if t.Expires != nil {
		expires = "expires " + ago(t.Expires, "")
	}
	_, _ = fmt.Fprintf(f.cmd.ErrOrStderr(), `This is API key %s of %s; it may %s, and %s.
It is shown this once. It is the password of:
  docker login %s --username %s --password-stdin
To revoke it: berth token rm %s
`, t.ID, printable(t.Account), may(t.Grants), expires, host, printable(t.Account), t.ID)
	return err
}

// may says what a key may do.
func may(grants []admin.Grant) string {
	if len(grants) == 0 {
		return "all"
	}
	var texts []string
	for _, g := range grants {
		texts = append(texts, strings.Join(g.Actions, ",")+" "+g.Repos)
	}
	return printable(strings.Join(texts, "; "))
}

func newTokenLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List API keys",
		Long: `List API keys: all of them on the server's machine, or one's own with --registry.

With --json: {"tokens": [...]}, each as 'berth token create' prints it but without
its secret, and with the time of its last use as "used".`,
		Example: "  berth token ls\n  berth token ls --for ci",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	account := cmd.Flags().String("for", "", "list only the keys of this `ACCOUNT`")
	all := cmd.Flags().Bool("all", false, "list the keys of all accounts")
	f.completeFlag("for", userNames)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *all && *account != "" {
			return cli.Usage(errors.New("want either --for or --all"))
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			tokens, err := a.list(cmd.Context(), *account, *all)
			if err != nil {
				return a.explain(err, "cannot list the API keys")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string][]admin.Token{"tokens": tokens})
			}
			return printTokens(cmd.OutOrStdout(), tokens, time.Now())
		})
	}
	return cmd
}

func (a *administration) list(ctx context.Context, account string, all bool) ([]admin.Token, error) {
	if all || a.local && account == "" {
		return a.AllTokens(ctx)
	}
	return a.Tokens(ctx, account)
}

func printTokens(out io.Writer, tokens []admin.Token, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tACCOUNT\tMAY\tCREATED\tLAST USED\tEXPIRES\tNOTE") // Flush returns what fails
	for _, t := range tokens {
		expires := ago(t.Expires, "never")
		if t.Expires != nil && !t.Expires.After(now) {
			expires = "expired"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			t.ID, printable(t.Account), may(t.Grants), ago(&t.Created, "-"), ago(t.Used, "never"), expires, dash(t.Note))
	}
	return w.Flush()
}

func newTokenRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm ID...",
		Short: "Revoke API keys",
		Long: `Revoke API keys, which 'berth token ls' lists: they are refused at once, and so
are tokens that were got with them.

With --json: {"results": [{"name": ID, "action": "revoked" or "failed", "error":
MESSAGE}, ...]}.`,
		Example: "  berth token rm q2w3e4r5t6y7u2i3",
		Args:    cobra.MinimumNArgs(1),
	}
	f := addAdminFlags(cmd)
	cmd.ValidArgsFunction = f.completeWith(0, func(ctx context.Context, a *administration) (ids []string, err error) {
		tokens, err := a.list(ctx, "", false)
		for _, t := range tokens {
			ids = append(ids, t.ID)
		}
		return ids, err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for i, arg := range args {
			args[i] = tokenID(arg)
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			return f.each(cmd.OutOrStdout(), args, "revoked", "revoked %s", func(id string) error {
				return a.explain(a.RevokeToken(cmd.Context(), id), "cannot revoke "+id)
			})
		})
	}
	return cmd
}

// tokenID is the id of a key, or of the whole key: its secret goes nowhere.
func tokenID(s string) string {
	if rest, ok := strings.CutPrefix(s, "berth_"); ok {
		id, _, _ := strings.Cut(rest, "_")
		return cmp.Or(id, s)
	}
	return s
}

func newTokenRotateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-keys",
		Short: "Sign registry tokens with a new key from now on",
		Long: `Sign registry tokens with a new key from now on. The server does so by itself from
time to time; this is for when the old key may be known to somebody. Nobody is
logged out: tokens that the old key has signed are valid until they expire.

With --json: {"rotated": true}.`,
		Example: "  berth token rotate-keys",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			if err := a.RotateSigningKeys(cmd.Context()); err != nil {
				return a.explain(err, "cannot rotate the keys")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string]bool{"rotated": true})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "registry tokens are signed by a new key")
			return err
		})
	}
	return cmd
}
