package auth

import (
	"regexp"
	"strconv"
	"strings"
)

// String returns the rule as a line of YAML, as the configuration has it.
func (r Rule) String() string {
	verb, actions := "may", r.May
	if r.MayNot != 0 {
		verb, actions = "may_not", r.MayNot
	}
	return "{who: " + list(r.Who) + ", repos: " + list(r.Repos) + ", " + verb + ": " + list(actions.Actions()) + "}"
}

// bare matches text that YAML takes for itself between brackets; what it takes for
// a number or a truth value begins otherwise or is in yamlWords.
var bare = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._@/-]*(:[A-Za-z0-9._@/=-]+)?$`)

func list(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		if quoted[i] = s; !bare.MatchString(s) || yamlWord(s) {
			quoted[i] = strconv.QuoteToGraphic(s)
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func yamlWord(s string) bool {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		return true
	}
	return false
}
