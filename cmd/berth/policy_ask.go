package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
)

// verdict is what 'berth policy test --json' prints.
type verdict struct {
	Allowed   bool     `json:"allowed"`
	Reason    string   `json:"reason"`
	Rule      int      `json:"rule,omitempty"` // that decided, from 1
	Text      string   `json:"text,omitempty"` // of that rule
	Immutable string   `json:"immutable,omitempty"`
	Account   string   `json:"account,omitempty"`
	Groups    []string `json:"groups"`
}

// question is what 'berth policy test' is asked.
type question struct {
	as             string
	groups, claims []string
	action         auth.Action
	repo, tag      string
}

func newPolicyTestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test --as ACCOUNT ACTION REPOSITORY[:TAG]",
		Short: "Say whether somebody may do something, and by which rule",
		Long: `Say whether somebody may do something, and which rule says so. ACTION is pull, push,
delete or admin; admin without a repository is the registry as a whole.

The policy is the one in --config, or the environment. The groups of an account that
the registry keeps itself are looked up in its data, if that can be read and
--group does not say otherwise.

The exit code is 0 for yes and 1 for no. For no, the reason may also be that a tag
is immutable: it can be created, not moved or removed.

With --json: {"allowed": false, "reason": TEXT, "rule": NUMBER, "text": RULE,
"immutable": PATTERN, "account": NAME, "groups": [GROUP, ...]}.`,
		Example: `  berth policy test --config /etc/berth.yaml --as ci push team/web:v1
  berth policy test --as anonymous pull public/web
  berth policy test --as github/job --claim repository=team/web push team/web`,
		Args: cobra.RangeArgs(1, 2),
	}
	f := addPolicyFlags(cmd)
	var q question
	cmd.Flags().StringVar(&q.as, "as", "", "the `ACCOUNT` that asks, or anonymous")
	cmd.Flags().StringArrayVar(&q.groups, "group", nil, "it is in this `GROUP`; can be given more than once")
	cmd.Flags().StringArrayVar(&q.claims, "claim", nil, "its provider says this of it, `NAME=VALUE`; can be given more than once")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return []string{"pull", "push", "delete", "admin"}, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := q.parse(args)
		if err != nil {
			return cli.Usage(err)
		}
		cfg, policy, err := f.load()
		if err != nil {
			return err
		}
		if policy != nil && !id.IsAnonymous() && len(q.groups) == 0 {
			lookUp(cmd.Context(), cfg, id, cmd.ErrOrStderr())
		}
		v, err := q.decide(cfg, policy, id)
		if err != nil {
			return err
		}
		return f.say(cmd.OutOrStdout(), v)
	}
	return cmd
}

// parse reads the command line, and returns who asks.
func (q *question) parse(args []string) (*auth.Identity, error) {
	if q.as == "" {
		return nil, errors.New("who asks? Say --as ACCOUNT, or --as anonymous")
	}
	id := &auth.Identity{Account: q.as, Groups: q.groups}
	if q.as == "anonymous" {
		if len(q.groups)+len(q.claims) > 0 {
			return nil, errors.New("who is anonymous has no groups and no claims")
		}
		id = auth.Anonymous
	}
	for _, c := range q.claims {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--claim %q: want NAME=VALUE", c)
		}
		if id.Claims == nil {
			id.Claims = map[string]string{}
		}
		id.Claims[name] = value
	}
	var ok bool
	if q.action, ok = auth.ParseAction(args[0]); !ok {
		return nil, fmt.Errorf("%q is no action: want pull, push, delete or admin", args[0])
	}
	if len(args) < 2 {
		if q.action != auth.Admin {
			return nil, fmt.Errorf("%s what? Name a repository", q.action)
		}
		return id, nil
	}
	var hasTag bool
	q.repo, q.tag, hasTag = strings.Cut(args[1], ":")
	switch {
	case !registry.ValidRepository(q.repo):
		return nil, fmt.Errorf("%q is no repository's name: want REPOSITORY[:TAG], without a host, in lower case", args[1])
	case hasTag && !registry.ValidTag(q.tag):
		return nil, fmt.Errorf("%q has an invalid tag", args[1])
	}
	return id, nil
}

// lookUp puts the groups of a local account into its identity, if its server or
// data can be read, and says so.
func lookUp(ctx context.Context, cfg config.Config, id *auth.Identity, stderr io.Writer) {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := openLocal(ctx, cfg, false, stderr)
	if err != nil {
		return // then there are the groups that were given
	}
	defer func() { _ = a.close() }() // nothing was changed
	u, err := a.User(ctx, id.Account)
	if err != nil {
		return
	}
	id.Groups = u.Groups
	_, _ = fmt.Fprintf(stderr, "%s is an account of this registry, %s, in %s.\n", printable(u.Name), state(u), inGroups(u.Groups))
}

// decide asks the policy, and whether a tag is immutable.
func (q *question) decide(cfg config.Config, policy *auth.Policy, id *auth.Identity) (verdict, error) {
	v := verdict{Allowed: true, Reason: openPolicy, Account: id.Account, Groups: append([]string{}, id.Groups...)}
	if policy != nil {
		d := policy.Decide(id, q.repo, q.action)
		v.Allowed = d.Allowed
		if d.Rule >= 0 {
			v.Rule, v.Text = d.Rule+1, policy.Rule(d.Rule).String()
			v.Reason = fmt.Sprintf("rule %d: %s", v.Rule, v.Text)
		} else {
			v.Reason = "no rule matches"
		}
	}
	patterns, err := auth.NewTagPatterns(cfg.Immutable)
	if err != nil {
		return v, fmt.Errorf("immutable: %w", err)
	}
	if q.tag == "" || q.action != auth.Push && q.action != auth.Delete {
		return v, nil
	}
	pattern, immutable := patterns.Match(q.repo, q.tag)
	if !immutable {
		return v, nil
	}
	v.Immutable = pattern
	switch {
	case !v.Allowed:
	case q.action == auth.Delete:
		v.Allowed = false
		v.Reason = fmt.Sprintf("the tag is immutable by %q (%s)", pattern, v.Reason)
	default:
		v.Reason += fmt.Sprintf("\nonly if there is no such tag yet: it is immutable by %q", pattern)
	}
	return v, nil
}

// say prints an answer. No is a failure that has been explained.
func (f *policyFlags) say(w io.Writer, v verdict) error {
	answer := "no"
	if v.Allowed {
		answer = "yes"
	}
	var err error
	if f.json {
		err = printJSON(w, v)
	} else {
		_, err = fmt.Fprintf(w, "%s: %s\n", answer, v.Reason)
	}
	if err == nil && !v.Allowed {
		err = errNo
	}
	return err
}

// errNo ends the command with a failure and says no more.
var errNo = errors.New("")
