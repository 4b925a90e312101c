// Package namespace has clients find what a mirror caches by the names that the
// upstream has for it, in the two ways that clients ask for it: containerd's query
// parameter ns, which names the upstream (documentation of its hosts.toml, "Registry
// Host Namespace"), and Docker's registry-mirrors, which just leave out the host.
//
// Of a mirror of Docker Hub, the short names below its prefix are those in library/, too:
// hub/nginx is hub/library/nginx.
//
// It rewrites the path of a request, so that everything behind it, access control
// included, knows one name for each repository: that below the mirror's prefix. It
// does so for reading alone, and looks at nothing but names; what is in a mirror it
// does not know.
package namespace

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-registry/berth/registry"
)

// Mirror is a mirror and what clients call it.
type Mirror struct {
	Prefix     string   // of the names of its repositories here
	Namespaces []string // hosts that clients ask for
	// Hub says that names without a slash are in library/, as on Docker Hub.
	Hub bool
	// Default says that names are its own that the registry does not have.
	Default bool
}

// Options say what there is to be found.
type Options struct {
	Mirrors []Mirror
	// Own are the hosts that the registry itself is known by, besides that of the
	// request: who asks for them by ns means what is here.
	Own []string
	// Has says whether the registry itself has a repository; it is asked for names
	// without ns, if one of Mirrors is the default.
	Has func(ctx context.Context, repo string) bool
}

// Handler rewrites requests for next. An answer to a request that asked for a
// namespace of a mirror says so in the header OCI-Namespace. A namespace that no
// mirror has is refused with registry.ErrNameUnknown: the client goes on to ask
// somebody else then, and what happens to have the same name here is not meant.
func Handler(next http.Handler, o Options) http.Handler {
	if len(o.Mirrors) == 0 {
		return next
	}
	n := &names{Options: o, next: next, mirrors: map[string]*Mirror{}}
	for i := range n.Mirrors {
		m := &n.Mirrors[i]
		for _, ns := range m.Namespaces {
			n.mirrors[strings.ToLower(ns)] = m
		}
		if m.Default {
			n.fallback = m
		}
	}
	return n
}

type names struct {
	Options
	next     http.Handler
	mirrors  map[string]*Mirror // by namespace
	fallback *Mirror            // or nil
}

func (n *names) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.HasPrefix(r.URL.Path, "/v2/") {
		n.next.ServeHTTP(w, r)
		return
	}
	req, err := registry.Parse(r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	if err != nil || req.Repo == "" { // the base, say: next knows what to answer
		n.next.ServeHTTP(w, r)
		return
	}
	m, err := n.mirror(w, r, req)
	switch {
	case err != nil:
		r = r.WithContext(registry.Refusing(r.Context(), err))
	case m != nil && m == n.fallback && r.Method == http.MethodHead && namespaceOf(r.URL.RawQuery) == "":
		if n.serveHead(w, m.rewrite(r, "/v2/", req.Repo)) {
			return
		}
	case m != nil:
		r = m.rewrite(r, "/v2/", req.Repo)
	default:
		r = n.lengthen(r, req.Repo)
	}
	n.next.ServeHTTP(w, r)
}

// serveHead answers a HEAD from the default mirror, unless that cannot be asked: who
// pushes a repository that is not here yet looks like that for what is there, and must
// not depend on an upstream.
func (n *names) serveHead(w http.ResponseWriter, r *http.Request) bool {
	held := &head{header: w.Header().Clone()}
	n.next.ServeHTTP(held, r)
	if held.status >= http.StatusInternalServerError || held.status == http.StatusTooManyRequests {
		return false
	}
	maps.Copy(w.Header(), held.header)
	w.WriteHeader(cmp.Or(held.status, http.StatusOK))
	return true
}

// head is an answer without a body, which is not sent yet.
type head struct {
	header http.Header
	status int
}

func (h *head) Header() http.Header { return h.header }

func (h *head) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (h *head) WriteHeader(status int) {
	if h.status == 0 && status >= http.StatusOK { // before it there may be others
		h.status = status
	}
}

// mirror finds the mirror that a request means, or nil.
func (n *names) mirror(w http.ResponseWriter, r *http.Request, req registry.Request) (*Mirror, error) {
	ns := namespaceOf(r.URL.RawQuery)
	if ns == "" {
		if n.fallback == nil || !readByDocker(r.Method, req) || n.isMirrored(req.Repo) || n.Has(r.Context(), req.Repo) {
			return nil, nil
		}
		return n.fallback, nil
	}
	if m := n.mirrors[strings.ToLower(ns)]; m != nil {
		w.Header().Set("OCI-Namespace", ns)
		return m, nil
	}
	if n.isOwn(ns, r.Host) {
		return nil, nil
	}
	return nil, registry.ErrNameUnknown.With("repository %s is not here: no mirror of this registry has the namespace %.80q", req.Repo, ns)
}

// readByDocker says whether Docker sends such a request to a mirror when it pulls. A
// HEAD of a blob is a push that looks what is here already.
func readByDocker(method string, req registry.Request) bool {
	switch req.Kind {
	case registry.KindBlob:
		return method == http.MethodGet
	case registry.KindManifest, registry.KindTags, registry.KindReferrers:
		return true
	default:
		return false
	}
}

// isMirrored says whether a name is one below a prefix already.
func (n *names) isMirrored(repo string) bool {
	for i := range n.Mirrors {
		if rest, ok := strings.CutPrefix(repo, n.Mirrors[i].Prefix); ok && strings.HasPrefix(rest, "/") {
			return true
		}
	}
	return false
}

func (n *names) isOwn(ns, host string) bool {
	if strings.EqualFold(ns, host) {
		return true
	}
	for _, own := range n.Own {
		if strings.EqualFold(ns, own) {
			return true
		}
	}
	return false
}

// namespaceOf is the parameter ns of a query.
func namespaceOf(rawQuery string) string {
	if !strings.Contains(rawQuery, "ns=") {
		return ""
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "" // it is refused later
	}
	return query.Get("ns")
}

// Alias returns a function that returns the name here of a repository that clients may
// know by another, which they ask for tokens for: they know nothing of prefixes. It is
// empty if there is no other name.
func Alias(mirrors []Mirror) func(repo string) string {
	n := &names{Options: Options{Mirrors: mirrors}}
	return func(repo string) string {
		for i := range mirrors {
			if short, ok := mirrors[i].short(repo); ok {
				return mirrors[i].name(short)
			}
		}
		if n.isMirrored(repo) {
			return ""
		}
		for i := range mirrors {
			if mirrors[i].Default {
				return mirrors[i].name(repo)
			}
		}
		return ""
	}
}

// short is what a repository below the prefix of a mirror of Docker Hub is called there,
// if that leaves out library/.
func (m *Mirror) short(repo string) (short string, ok bool) {
	short, ok = strings.CutPrefix(repo, m.Prefix+"/")
	return short, ok && m.Hub && !strings.Contains(short, "/")
}

// name is the name here of a repository that the mirror's clients call repo.
func (m *Mirror) name(repo string) string {
	if m.Hub && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	return m.Prefix + "/" + repo
}

// lengthen is r for the long name of a repository below the prefix of a mirror of
// Docker Hub.
func (n *names) lengthen(r *http.Request, repo string) *http.Request {
	for i := range n.Mirrors {
		m := &n.Mirrors[i]
		short, ok := m.short(repo)
		if before := "/v2/" + m.Prefix + "/"; ok && strings.HasPrefix(r.URL.EscapedPath(), before) {
			return m.rewrite(r, before, short)
		}
	}
	return r
}

// rewrite is r for the name here of a repository that the mirror's clients call repo.
// Only what precedes that in the path is changed, in which no escape is: Parse has read
// the name.
func (m *Mirror) rewrite(r *http.Request, before, repo string) *http.Request {
	to := "/v2/" + strings.TrimSuffix(m.name(repo), repo)
	changed := *r
	u := *r.URL
	u.Path = to + strings.TrimPrefix(u.Path, before)
	if u.RawPath != "" {
		u.RawPath = to + strings.TrimPrefix(u.RawPath, before)
	}
	changed.URL = &u
	return &changed
}
