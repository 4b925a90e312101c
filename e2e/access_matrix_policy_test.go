package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// matrixRule is a rule of a policy, as a test knows it: the configuration is made of
// it, and what a server has to answer is told by it, with code that knows nothing
// of the server's.
type matrixRule struct {
	who, repos string // separated by spaces
	may        string // "pull,push"; or with "!" before it what they may not
}

// matrixPolicy gives each set of rights a directory of its own. Of "hidden" no rule
// tells; "all/none" is what a later rule would allow.
var matrixPolicy = []matrixRule{
	{"user:barred", "**", "!pull,push,delete,admin"},
	{"everyone", "public/**", "pull"},
	{"group:members hatter claim:repository=acme/*", "all/none/** all/never", "!pull,push,delete,admin"},
	{"group:members hatter claim:repository=acme/*", "pull/**", "pull"},
	{"group:members hatter claim:repository=acme/*", "push/**", "push"},
	{"group:members hatter claim:repository=acme/*", "delete/**", "delete"},
	{"authenticated", "both/*", "push,pull"},
	{"group:members", "all/**", "pull,push,delete"},
	{"authenticated", "both/*", "!pull"},
	{"anonymous", "both/**", "!pull,push"},
}

// matrixRepos are repositories that have content; there is no twinOf any of them.
var matrixRepos = []string{
	"public/app", "pull/app", "push/app", "both/app", "both/deep/app", "delete/app", "all/app", "all/none/app", "hidden/app",
}

// twinOf is a repository of which policy says the same.
func twinOf(repo string) string { return strings.TrimSuffix(repo, "app") + "zzz" }

func policyYAML(rules []matrixRule) string {
	quoted := func(list string) string { return `["` + strings.Join(strings.Fields(list), `", "`) + `"]` }
	var b strings.Builder
	for _, r := range rules {
		effect, actions := "may", r.may
		if rest, not := strings.CutPrefix(r.may, "!"); not {
			effect, actions = "may_not", rest
		}
		fmt.Fprintf(&b, "- {who: %s, repos: %s, %s: [%s]}\n", quoted(r.who), quoted(r.repos), effect, actions)
	}
	return b.String()
}

// caller is somebody who asks.
type caller struct {
	name    string
	wire    *wire
	header  []string
	account string // empty for nobody
	groups  []string
	claims  map[string]string
	// key is what the API key grants that was used, "PATTERN:ACTION,..."; nil if none
	// was. scope is the same of a registry token.
	key, scope []string

	unknown bool   // the credentials are not good
	invalid string // the error of the challenge then
	slow    bool   // each refusal takes its time, and there cannot be many from one address
	program bool   // signed in by a key or a token: not in person
}

// root is how a caller with all rights looks to policy.
var matrixRoot = matrixRule{"root", "**", "pull,push,delete,admin"}

// may says whether policy lets the caller do something, whatever it signed in by.
func (c *caller) may(repo, action string) bool {
	for _, r := range append([]matrixRule{matrixRoot}, matrixPolicy...) {
		actions, not := strings.CutPrefix(r.may, "!")
		if slices.ContainsFunc(strings.Fields(r.who), c.is) && matchesAny(r.repos, repo) && slices.Contains(strings.Split(actions, ","), action) {
			return !not
		}
	}
	return false
}

func (c *caller) is(who string) bool {
	kind, name, ok := strings.Cut(who, ":")
	switch {
	case who == "everyone":
		return true
	case who == "anonymous":
		return c.account == ""
	case who == "authenticated":
		return c.account != ""
	case !ok:
		return c.account == who
	case kind == "user":
		return c.account == name
	case kind == "group":
		return slices.Contains(c.groups, name)
	}
	claim, prefix, _ := strings.Cut(strings.TrimSuffix(name, "*"), "=")
	return strings.HasPrefix(c.claims[claim], prefix) && c.claims[claim] != ""
}

// matchesAny knows NAME, NAME/*, NAME/** and **.
func matchesAny(patterns, repo string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool {
		if p == "**" {
			return true
		}
		if base, ok := strings.CutSuffix(p, "**"); ok {
			return strings.HasPrefix(repo, base)
		}
		if base, ok := strings.CutSuffix(p, "*"); ok {
			rest, ok := strings.CutPrefix(repo, base)
			return ok && !strings.Contains(rest, "/")
		}
		return p == repo
	})
}

// covers says whether grants, if there are any to be looked at, are for an action.
func covers(grants []string, repo, action string) bool {
	return grants == nil || slices.ContainsFunc(grants, func(g string) bool {
		pattern, actions, _ := strings.Cut(g, ":")
		return matchesAny(pattern, repo) && (actions == "*" || slices.Contains(strings.Split(actions, ","), action))
	})
}

// allowed says whether the caller can do something.
func (c *caller) allowed(repo, action string) bool {
	return !c.unknown && c.may(repo, action) && covers(c.key, repo, action) && covers(c.scope, repo, action)
}

// sees says whether a list of repositories has one. The scope of a token does not
// count: no client could ask for a scope of what it does not know yet.
func (c *caller) sees(repo string) bool {
	return c.may(repo, "pull") && covers(c.key, repo, "pull")
}

// verdict is what the answer to a request has to be.
type verdict struct {
	status int
	code   string // of the error
	scope  string // of the challenge, if there is one
	fault  string // the error of the challenge
}

// verdict is what a route that needs an action has to answer. What is not to be seen
// is missing, and that is what the route's own answer is then.
func (c *caller) verdict(r *matrixRoute, repo string) verdict {
	switch {
	case c.unknown:
		return verdict{status: http.StatusUnauthorized, code: "UNAUTHORIZED", fault: c.invalid}
	case strings.HasPrefix(r.name, "catalog") && c.account == "" && c.scope == nil: // asked who it is, for what it would miss
		return verdict{status: http.StatusUnauthorized, code: "UNAUTHORIZED", scope: "registry:catalog:*"}
	case r.action == "signin":
		if c.account == "" && c.scope == nil {
			return verdict{status: http.StatusUnauthorized, code: "UNAUTHORIZED"}
		}
		return verdict{status: r.status}
	case r.action == "" || c.allowed(repo, r.action):
		return c.mounted(r, repo)
	}
	scope := map[string]string{"pull": "pull", "push": "pull,push", "delete": "delete"}[r.action]
	told := verdict{status: http.StatusUnauthorized, code: "UNAUTHORIZED", scope: "repository:" + repo + ":" + scope}
	if from, ok := strings.CutPrefix(r.name, "mount from "); ok && from != "anywhere" && from != repo {
		told.scope += " repository:" + from + ":pull"
	}
	switch {
	case c.scope != nil && c.may(repo, r.action) && covers(c.key, repo, r.action):
		told.fault = "insufficient_scope"
		return told
	case c.account == "":
		return told
	case r.action == "pull":
		return verdict{status: r.missing, code: r.code}
	}
	return verdict{status: http.StatusForbidden, code: "DENIED"}
}

// mounted is the verdict about somebody who may push: a blob is mounted if it may be
// pulled from where it is, and else it is to be uploaded. Who would only need
// another token is told so.
func (c *caller) mounted(r *matrixRoute, repo string) verdict {
	from, ok := strings.CutPrefix(r.name, "mount from ")
	switch {
	case !ok:
		return verdict{status: r.status}
	case from == "anywhere" && c.account == "root" && c.key == nil && c.scope == nil,
		from != "anywhere" && from != "hidden/gone" && c.allowed(from, "pull"):
		return verdict{status: http.StatusCreated}
	case from != "anywhere" && c.scope != nil && c.sees(from) && !covers(c.scope, from, "pull"):
		scope := "repository:" + repo + ":pull,push repository:" + from + ":pull"
		return verdict{status: http.StatusUnauthorized, code: "UNAUTHORIZED", scope: scope, fault: "insufficient_scope"}
	}
	return verdict{status: http.StatusAccepted}
}

// listed are the repositories that lists show to the caller.
func (c *caller) listed() (names []string) {
	for _, repo := range matrixRepos {
		if c.sees(repo) {
			names = append(names, repo)
		}
	}
	slices.Sort(names)
	return names
}

// headers are those of an answer that do not change from one to the next.
func stable(h http.Header) http.Header {
	h = maps.Clone(h)
	h.Del("Date")
	h.Del("X-Request-Id")
	return h
}
