package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// route says what a path is for. A "*" in the path stands for one component.
type route struct {
	method, path string
	access       access
	kind         audit.Kind // of the change; empty if nothing is changed
	action       string     // what the audit calls the change
	handle       func(*call) (status int, body any, err error)
}

// routes are all there are.
func routes() []route {
	return []route{
		{"GET", "whoami", signedIn, "", "", (*call).whoAmI},

		{"GET", "users", administrator, "", "", (*call).listUsers},
		{"POST", "users", administrator, audit.AccountChange, "create", (*call).createUser},
		{"GET", "users/*", administrator, "", "", (*call).user},
		{"PATCH", "users/*", administrator, audit.AccountChange, "change", (*call).changeUser},
		{"DELETE", "users/*", administrator, audit.AccountChange, "remove", (*call).removeUser},
		{"PUT", "users/*/password", inPerson, audit.AccountChange, "password", (*call).setPassword},

		{"GET", "tokens", inPerson, "", "", (*call).listTokens},
		{"POST", "tokens", inPerson, audit.TokenChange, "create", (*call).createToken},
		{"DELETE", "tokens/*", signedIn, audit.TokenChange, "revoke", (*call).revokeToken},

		{"GET", "gc", administrator, "", "", (*call).planCollection},
		{"POST", "gc", administrator, audit.ConfigChange, "collect-garbage", (*call).collect},
		{"GET", "nodes", administrator, "", "", (*call).listNodes},
		{"POST", "nodes/*", runner, "", "", (*call).reportNode},
		{"DELETE", "nodes/*", administrator, audit.ConfigChange, "remove-node", (*call).removeNode},
		{"GET", "history", anybody, "", "", (*call).history},

		{"POST", "follow/*", runner, "", "", (*call).follow},
		{"GET", "watch/*", anybody, "", "", (*call).watch},
		{"GET", "rollouts", anybody, "", "", (*call).listRollouts},
		{"GET", "rollouts/*", anybody, "", "", (*call).rollout},
		{"POST", "rollouts/*/pause", runner, audit.ConfigChange, "pause-rollout", (*call).pauseRollout},
		{"POST", "rollouts/*/resume", runner, audit.ConfigChange, "resume-rollout", (*call).resumeRollout},
		{"POST", "rollouts/*/undo", runner, audit.ConfigChange, "undo-rollout", (*call).undoRollout},

		{"GET", "usage", signedIn, "", "", (*call).usage},
		{"GET", "scrub", administrator, "", "", (*call).scrubStatus},
		{"POST", "scrub", administrator, audit.ConfigChange, "start-scrub", (*call).startScrub},

		{"GET", "retention", administrator, "", "", (*call).planRetention},
		{"POST", "retention", administrator, audit.ConfigChange, "apply-retention", (*call).retain},

		{"GET", "mirrors", administrator, "", "", (*call).listMirrors},
		{"GET", "mirrors/*", administrator, "", "", (*call).planMirror},
		{"POST", "mirrors/*", administrator, audit.ConfigChange, "run-mirror", (*call).mirror},

		{"GET", "replications", administrator, "", "", (*call).listReplications},
		{"GET", "replications/*", administrator, "", "", (*call).planReplication},
		{"POST", "replications/*", administrator, audit.ConfigChange, "run-replication", (*call).replicate},
		{"POST", "replications/*/retry", administrator, audit.ConfigChange, "retry-replication", (*call).retryReplication},

		{"POST", "backup", onMachine, audit.ConfigChange, "backup", (*call).backup},
		{"POST", "migrate", onMachine, audit.ConfigChange, "migrate", (*call).migrate},

		{"POST", "signing-keys/rotate", administrator, audit.ConfigChange, "rotate-signing-keys", (*call).rotate},
	}
}

// access is who may use a route. What of it they may do, a handler can narrow.
type access int

const (
	anybody       access = iota // as far as they may pull, which the handler asks
	runner                      // everybody with an account; without a policy anybody; a handler asks for more
	signedIn                    // everybody with an account
	inPerson                    // not by an API key or a registry token, unless it administers
	administrator               // who administers the registry
	onMachine                   // who came by Local: the server's files are concerned
)

// handler serves the API.
type handler struct {
	Options
	origin *http.CrossOriginProtection
}

// call is one request.
type call struct {
	*handler
	w       http.ResponseWriter
	r       *http.Request
	who     caller
	params  []string // what the "*" of the route's path stand for
	subject string   // account or key that is about to be changed

	streamed bool // the answer has begun
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 {
		// Also for a body that nobody looks at: the server reads to its end.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // a recorder in a test has none
	}
	c := &call{handler: h, w: w, r: r, who: h.caller(r.Context())}
	var status int
	var body any
	rt, err := c.route()
	if err == nil {
		status, body, err = c.serve(rt)
		c.record(rt, err)
	}
	if err != nil {
		kind, told := (*registry.Error)(nil), classify(err)
		if !errors.As(told, &kind) {
			h.Log.ErrorContext(r.Context(), "administration failed", "path", r.URL.Path, "request", r.Header.Get("X-Request-Id"), "error", err)
		}
		c.refuse(told)
		return
	}
	if !c.streamed {
		answer(w, status, body)
	}
}

// refuse answers with an error, or ends with it an answer that has begun.
func (c *call) refuse(err error) {
	if !c.streamed {
		refuse(c.w, err)
		return
	}
	_, list := wireErrors(err)
	s := lines{w: c.w, control: http.NewResponseController(c.w), begun: true}
	_ = s.send(list) // a client that has gone learns nothing anyway
}

// route finds the route of the request, by the path as the client has sent it: a
// component that hides a "/" or a ".." is one component, and no name.
func (c *call) route() (route, error) {
	path, ok := strings.CutPrefix(c.r.URL.EscapedPath(), Prefix)
	var methods []string
	for _, rt := range routes() {
		params, match := matchPath(rt.path, path)
		if !ok || !match {
			continue
		}
		if rt.method == c.r.Method {
			c.params = params
			return rt, nil
		}
		methods = append(methods, rt.method)
	}
	if methods == nil {
		return route{}, registry.ErrRouteUnknown.With("no such route")
	}
	c.w.Header().Set("Allow", strings.Join(methods, ", "))
	return route{}, registry.ErrMethod
}

// ForAnybody says whether a request is for a route that needs no policy: it is served
// over the network, too, where there is none.
func ForAnybody(r *http.Request) bool {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), Prefix)
	return ok && slices.ContainsFunc(routes(), func(rt route) bool {
		_, match := matchPath(rt.path, path)
		return match && rt.method == r.Method && (rt.access == anybody || rt.access == runner)
	})
}

// matchPath compares an escaped path with that of a route.
func matchPath(pattern, path string) (params []string, ok bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	for i, part := range want {
		if part != "*" {
			if part != have[i] {
				return nil, false
			}
			continue
		}
		name, err := url.PathUnescape(have[i])
		if err != nil || name == "" {
			return nil, false
		}
		params = append(params, name)
	}
	return params, true
}

// serve checks who asks, and has the route's handler do it.
func (c *call) serve(rt route) (status int, body any, err error) {
	if len(c.params) > 0 {
		c.subject = c.params[0]
	}
	defer func() {
		if errors.Is(err, registry.ErrUnauthorized) {
			// Whatever the registry challenges its clients to: only Basic is of use here.
			c.w.Header().Set("WWW-Authenticate", `Basic realm="administration of the registry", charset="UTF-8"`)
		}
	}()
	if err := c.who.check(rt.access); err != nil {
		return 0, nil, err
	}
	if err := c.origin.Check(c.r); err != nil {
		return 0, nil, registry.ErrDenied.With("a page of another site has no business here")
	}
	return rt.handle(c)
}

// record tells the audit of a change, or that it was refused.
func (c *call) record(rt route, err error) {
	if c.Audit == nil || rt.kind == "" {
		return
	}
	e := audit.Event{Kind: rt.kind, Action: rt.action, Subject: clean(c.subject), Outcome: audit.OK}
	if err != nil {
		kind, told := (*registry.Error)(nil), classify(err)
		e.Outcome, e.Reason = audit.Failed, told.Error()
		switch {
		case !errors.As(told, &kind):
			e.Reason = registry.ErrUnavailable.Message
		case kind == registry.ErrUnauthorized, kind == registry.ErrDenied, kind == ErrPasswordWrong:
			e.Outcome = audit.Denied
		}
	}
	// What was done is recorded even if the client has gone by now.
	c.Audit.Record(context.WithoutCancel(c.r.Context()), e)
}

// clean keeps what somebody calls an account from filling the record.
func clean(name string) string {
	const most = 256
	if len(name) > most {
		name = name[:most] + "..."
	}
	return strings.ToValidUTF8(name, "?")
}

// caller is who asks.
type caller struct {
	id    *auth.Identity
	local bool // came by Local
	open  bool // there is no access control
	admin bool // administers the registry
}

// caller finds out whose the request is, and whether it administers.
func (h *handler) caller(ctx context.Context) caller {
	who := caller{id: auth.Anonymous, local: isLocal(ctx), open: h.Authority == nil}
	if s := auth.FromContext(ctx); s != nil && s.Identity != nil {
		who.id = s.Identity
	}
	switch {
	case who.local:
		who.admin = true
	case who.open, who.id.IsAnonymous(), who.id.Scoped, who.id.Final:
	default:
		who.admin = h.Authority.Decide(who.id, "", auth.Admin).Allowed && auth.Covers(who.id.Grants, "", auth.Admin)
	}
	return who
}

// check says whether the caller may use a route.
func (who caller) check(a access) error {
	switch {
	case a == onMachine && !who.local && who.admin:
		return registry.ErrDenied.With("that can only be done on the registry's own machine")
	case who.admin, a == anybody, a == runner && who.open:
		return nil
	case who.open:
		return registry.ErrDenied.With("the registry has no policy: administer it on its own machine")
	case who.id.IsAnonymous():
		return registry.ErrUnauthorized.With("sign in first, with the password of an account")
	case a == signedIn, a == runner:
		return nil
	case who.id.Scoped, who.id.Final:
		return registry.ErrDenied.With("a registry token is for the registry's content: sign in with a password")
	case a == inPerson && who.id.Key != "":
		return registry.ErrDenied.With("an API key cannot do that: sign in with a password")
	case a == inPerson:
		return nil
	default:
		return registry.ErrDenied.With("only who administers the registry may do that: action admin on the whole registry, \"**\"")
	}
}

// isOwn says whether an account that the API names is the caller's own.
func (who caller) isOwn(account string) bool {
	return !who.local && !who.id.IsAnonymous() && who.id.Account == account
}
