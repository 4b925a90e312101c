package main

import (
	"fmt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/config"
)

// policyRules are the rules of a configuration.
func policyRules(c config.Config) ([]auth.Rule, error) {
	var rules []auth.Rule
	for i, r := range c.Policy {
		rule := auth.Rule{Who: r.Who, Repos: r.Repos}
		for _, set := range []struct {
			names []string
			to    *auth.Action
		}{{r.May, &rule.May}, {r.MayNot, &rule.MayNot}} {
			for _, name := range set.names {
				a, ok := auth.ParseAction(name)
				if !ok {
					return nil, fmt.Errorf("policy: rule %d: no such action: %q", i+1, name)
				}
				*set.to |= a
			}
		}
		rules = append(rules, rule)
	}
	return rules, nil
}
