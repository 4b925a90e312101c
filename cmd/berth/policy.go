package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/config"
)

func newPolicyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show the policy of a configuration, or ask it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyTestCmd(), newPolicyShowCmd())
	return cmd
}

// policyFlags are the flags of the commands about the policy.
type policyFlags struct {
	data dataFlags
	json bool
}

func addPolicyFlags(cmd *cobra.Command) *policyFlags {
	f := &policyFlags{data: dataFlags{cmd: cmd}}
	f.data.add()
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, in a shape that stays")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return f
}

// load reads the policy; it is nil if there is none.
func (f *policyFlags) load() (config.Config, *auth.Policy, error) {
	cfg, err := f.data.load()
	if err != nil || !cfg.Restricted() {
		return cfg, nil, err
	}
	rules, err := policyRules(cfg)
	if err != nil {
		return cfg, nil, err
	}
	policy, err := auth.NewPolicy(rules)
	if err != nil {
		return cfg, nil, fmt.Errorf("policy: %w", err)
	}
	return cfg, policy, nil
}

func newPolicyShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "List the rules of a policy by number",
		Long: `List the rules of a policy by number, and the patterns of immutable tags. The first
rule that matches decides.

With --json: {"rules": [RULE, ...], "immutable": [PATTERN, ...]}.`,
		Example: "  berth policy show --config /etc/berth.yaml",
		Args:    cobra.NoArgs,
	}
	f := addPolicyFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, policy, err := f.load()
		if err != nil {
			return err
		}
		shown := struct {
			Rules     []string `json:"rules"`
			Immutable []string `json:"immutable"`
		}{[]string{}, append([]string{}, cfg.Immutable...)}
		for i := range cfg.Policy {
			shown.Rules = append(shown.Rules, policy.Rule(i).String())
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), shown)
		}
		return shownText(cmd.OutOrStdout(), shown.Rules, shown.Immutable)
	}
	return cmd
}

func shownText(w io.Writer, rules, immutable []string) error {
	var text strings.Builder
	for i, r := range rules {
		fmt.Fprintf(&text, "%4d: %s\n", i+1, r)
	}
	if len(rules) == 0 {
		text.WriteString(openPolicy + "\n")
	}
	for _, p := range immutable {
		fmt.Fprintf(&text, "immutable: %s\n", p)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

const openPolicy = "there is no policy: anybody may do anything"
