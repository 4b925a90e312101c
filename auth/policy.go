package auth

// Authority decides who may do what.
type Authority interface {
	// Decide says whether policy lets id do a to repo; an empty repo stands for
	// the registry as a whole. It does not look at id.Grants.
	Decide(id *Identity, repo string, a Action) Decision
}

// Decision is an answer of an Authority.
type Decision struct {
	Allowed bool
	Rule    int // that decided, from 0; -1 if none matches
}

// Rule is a rule of a policy. It applies to an identity, a repository and an
// action if Who, Repos and May or MayNot name them; exactly one of May and MayNot
// is set.
type Rule struct {
	// Who are subjects: "everyone", "anonymous", "authenticated", "user:NAME" or
	// NAME, "group:NAME", "claim:NAME=PATTERN".
	Who    []string
	Repos  []string // patterns
	May    Action   // set
	MayNot Action   // set
}

// Policy is a list of rules of which the first that matches decides; if none
// does, the answer is no. It is not changed once it was made.
type Policy struct{ rules []Rule }

// NewPolicy checks rules and makes a policy of them.
func NewPolicy(rules []Rule) (*Policy, error) { return &Policy{rules}, nil }

// Decide implements Authority.
func (p *Policy) Decide(*Identity, string, Action) Decision { return Decision{Rule: -1} }

// ValidPattern says whether s is a pattern of repositories: components of a
// repository's name in which "*" stands for any part of a component, and "**" for
// any number of whole components.
func ValidPattern(string) bool { return false }

// Match says whether a pattern matches a repository's name.
func Match(string, string) bool { return false }

// Covers says whether grants allow a in repo. Nil grants limit nothing.
func Covers(grants []Grant, repo string, a Action) bool { return grants == nil }
