package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// event is a line of the audit log. Time and request are looked at apart.
type event struct {
	Event, Outcome, Account, Source, Key, Client string
	Repository, Tag, Digest, Was                 string
	Action, Subject, Reason                      string
}

// auditLines are the lines of an audit log, by the ids of their requests.
func auditLines(t *testing.T, path string) map[string][]event {
	t.Helper()
	all := map[string][]event{}
	for line := range strings.Lines(readFile(t, path)) {
		at := decode[struct{ Time, Request string }](t, line)
		if at.Time == "" || at.Request == "" {
			t.Errorf("a line without time or request: %s", line)
		}
		all[at.Request] = append(all[at.Request], decode[event](t, line))
	}
	return all
}

// trail has requests made, and knows what the audit has to say of each.
type trail struct {
	*guarded
	want     map[string][]event // by the id of the request
	requests map[string]string  // method and path by id
}

// does sends a request, of which the audit has to tell events.
func (r *trail) does(header []string, status int, method, path string, body []byte, events ...event) answer {
	r.t.Helper()
	a := r.send(header, status, method, path, body)
	id := a.header.Get("X-Request-Id")
	if id == "" || r.requests[id] != "" {
		r.t.Errorf("%s %s has the id %q", method, path, id)
	}
	r.want[id], r.requests[id] = events, method+" "+path
	return a
}

// TestAuditTrail does all that is audited, and finds one line of each in the audit
// log, with who, from where, what, and the id that the client and the log have too.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	r := &trail{startGuarded(t, berthtest.Options{}, "", `- {who: [dora, robot], repos: ["team/**"], may: [pull, push, delete]}`), map[string][]event{}, map[string]string{}}
	r.send(r.root, http.StatusOK, "GET", "/v2/", nil) // root's login is none of what is looked at
	dora := r.changes()
	r.pushes(dora)
	r.refusals(dora)
	// A request that already has an id keeps it.
	a := r.does(append([]string{"X-Request-Id", "from.a-proxy_1"}, dora...), http.StatusForbidden, "POST", "/v2/other/blobs/uploads/", nil,
		event{Event: "access", Outcome: "denied", Account: "dora", Source: "accounts", Repository: "other", Action: "push"})
	if id := a.header.Get("X-Request-Id"); id != "from.a-proxy_1" {
		t.Errorf("the id of a request becomes %q", id)
	}

	got := auditLines(t, filepath.Join(r.dir, "audit.log"))
	for id, want := range r.want {
		for i := range want {
			want[i].Client = "127.0.0.1"
		}
		for i := range got[id] {
			if fine := got[id][i].Outcome == "ok"; fine != (got[id][i].Reason == "") {
				t.Errorf("request %s: outcome %s, reason %q", id, got[id][i].Outcome, got[id][i].Reason)
			}
			got[id][i].Reason = ""
		}
		if !slices.Equal(got[id], want) {
			t.Errorf("request %s is told of as\n%+v\nwant\n%+v", id, got[id], want)
		}
	}
	r.Stop() // what it has logged is there then
	for id, request := range r.requests {
		if strings.Count(r.Log(), `"msg":"request","id":"`+id+`","client":"127.0.0.1",`) != 1 {
			t.Errorf("the log does not have %s, %s, once", request, id)
		}
	}
}

// changes makes, alters and removes accounts and keys, and returns the header of dora.
func (r *trail) changes() []string {
	root := append([]string{"Content-Type", "application/json"}, r.root...)
	account := func(action string) event {
		return event{Event: "account", Outcome: "ok", Account: "root", Source: "accounts", Action: action, Subject: "dora"}
	}
	token := func(action, id string) event {
		return event{Event: "token", Outcome: "ok", Account: "root", Source: "accounts", Action: action, Subject: id}
	}
	r.does(root, http.StatusCreated, "POST", "/api/v1/users", mustJSON(map[string]any{"name": "dora", "password": r.secret("a first password", "the first of dora")}), account("create"))
	r.does(root, http.StatusConflict, "POST", "/api/v1/users", mustJSON(map[string]any{"name": "dora", "password": "another password"}),
		event{Event: "account", Outcome: "failed", Account: "root", Source: "accounts", Action: "create", Subject: "dora"})
	r.does(root, http.StatusNoContent, "PUT", "/api/v1/users/dora/password", mustJSON(map[string]any{"password": "the second of dora"}), account("password"))
	dora := r.basic("dora", "the second of dora")
	r.does(dora, http.StatusOK, "GET", "/v2/", nil, event{Event: "login", Outcome: "ok", Account: "dora", Source: "accounts"})
	r.does(dora, http.StatusOK, "GET", "/v2/", nil) // she is known now
	r.does(r.basic("dora", "the first of dora"), http.StatusUnauthorized, "GET", "/v2/", nil, event{Event: "login", Outcome: "denied", Subject: "dora"})
	r.does(r.basic("nobody", "no password of anybody"), http.StatusUnauthorized, "GET", "/token?service=berth", nil, event{Event: "login", Outcome: "denied", Subject: "nobody"})
	r.does(append([]string{"Content-Type", "application/json"}, dora...), http.StatusForbidden, "DELETE", "/api/v1/users/root", nil,
		event{Event: "account", Outcome: "denied", Account: "dora", Source: "accounts", Action: "remove", Subject: "root"})

	grants := []map[string]any{{"repos": "team/**", "actions": []string{"push", "pull"}}}
	r.does(root, http.StatusCreated, "POST", "/api/v1/users", mustJSON(map[string]any{"name": "robot", "robot": true}),
		event{Event: "account", Outcome: "ok", Account: "root", Source: "accounts", Action: "create", Subject: "robot"})
	a := r.send(root, http.StatusCreated, "POST", "/api/v1/tokens", mustJSON(map[string]any{"account": "robot", "grants": grants, "never": true}))
	key := decode[struct{ ID, Secret string }](r.t, string(a.body))
	r.want[a.header.Get("X-Request-Id")] = []event{token("create", "robot/"+key.ID)}
	bearer := r.bearer(key.Secret)
	r.does(bearer, http.StatusAccepted, "POST", "/v2/team/robot/blobs/uploads/", nil,
		event{Event: "login", Outcome: "ok", Account: "robot", Source: "accounts", Key: key.ID})
	r.does(bearer, http.StatusForbidden, "POST", "/v2/other/blobs/uploads/", nil,
		event{Event: "access", Outcome: "denied", Account: "robot", Source: "accounts", Key: key.ID, Repository: "other", Action: "push"})
	r.does(root, http.StatusNoContent, "DELETE", "/api/v1/tokens/"+key.ID, nil, token("revoke", "robot/"+key.ID))
	r.does(bearer, http.StatusUnauthorized, "GET", "/v2/", nil, event{Event: "login", Outcome: "denied"})
	return dora
}

// pushes has images pushed, their tag moved, and them deleted.
func (r *trail) pushes(dora []string) {
	by := func(e event) event {
		e.Outcome, e.Account, e.Source, e.Repository = "ok", "dora", "accounts", "team/web"
		return e
	}
	config := []byte("{}")
	r.does(dora, http.StatusCreated, "POST", "/v2/team/web/blobs/uploads/?digest="+digest.FromBytes(config).String(), config)
	manifest := func(n int) ([]byte, string) {
		data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[],"annotations":{"number":"%d"}}`,
			ociManifest, mustJSON(descriptorOf("application/vnd.oci.image.config.v1+json", config)), n)
		return data, digest.FromBytes(data).String()
	}
	one, oneDigest := manifest(1)
	two, twoDigest := manifest(2)
	push := append([]string{"Content-Type", ociManifest}, dora...)
	const at = "/v2/team/web/manifests/"
	r.does(push, http.StatusCreated, "PUT", at+"v1", one,
		by(event{Event: "push", Tag: "v1", Digest: oneDigest}), by(event{Event: "tag", Tag: "v1", Digest: oneDigest}))
	r.does(push, http.StatusCreated, "PUT", at+"v1", two,
		by(event{Event: "push", Tag: "v1", Digest: twoDigest}), by(event{Event: "tag", Tag: "v1", Digest: twoDigest, Was: oneDigest}))
	r.does(dora, http.StatusOK, "GET", at+"v1", nil)
	r.does(dora, http.StatusAccepted, "DELETE", at+"v1", nil, by(event{Event: "delete", Tag: "v1", Digest: twoDigest}))
	r.does(dora, http.StatusAccepted, "DELETE", at+oneDigest, nil, by(event{Event: "delete", Digest: oneDigest}))
	r.does(dora, http.StatusNotFound, "DELETE", at+oneDigest, nil)
	r.does(dora, http.StatusAccepted, "DELETE", at+twoDigest, nil, by(event{Event: "delete", Digest: twoDigest}))
	r.does(dora, http.StatusAccepted, "DELETE", "/v2/team/web/blobs/"+digest.FromBytes(config).String(), nil,
		by(event{Event: "delete", Digest: digest.FromBytes(config).String()}))
}

// refusals asks for what policy says no to.
func (r *trail) refusals(dora []string) {
	access := func(e event) event {
		e.Event, e.Outcome = "access", "denied"
		return e
	}
	hers := func(action, tag string) event {
		return access(event{Account: "dora", Source: "accounts", Repository: "other", Action: action, Tag: tag})
	}
	r.does(dora, http.StatusNotFound, "GET", "/v2/other/manifests/v1", nil, hers("pull", "v1"))
	r.does(dora, http.StatusForbidden, "DELETE", "/v2/other/manifests/v1", nil, hers("delete", "v1"))
	r.does(nil, http.StatusUnauthorized, "GET", "/v2/team/web/manifests/v1", nil, access(event{Repository: "team/web", Action: "pull", Tag: "v1"}))
	r.does(nil, http.StatusUnauthorized, "GET", "/v2/", nil) // how clients ask how to sign in
	narrow := r.bearer(r.token(dora, "repository:team/web:pull").Token)
	r.does(narrow, http.StatusUnauthorized, "POST", "/v2/team/web/blobs/uploads/", nil,
		access(event{Account: "dora", Source: "accounts", Repository: "team/web", Action: "push"}))
}

// TestAuditRotates fills an audit log, and moves it away as logrotate does.
func TestAuditRotates(t *testing.T) {
	t.Parallel()
	const size, keep = 4096, 3
	g := startGuarded(t, berthtest.Options{Env: []string{fmt.Sprint("BERTH_AUDIT_MAX_SIZE=", size), fmt.Sprint("BERTH_AUDIT_KEEP=", keep)}}, "", "")
	last := ""
	for range 150 {
		last = must(g.wire.must(http.StatusUnauthorized, "GET", "/v2/team/web/tags/list", nil))(t).header.Get("X-Request-Id")
	}
	path := filepath.Join(g.dir, "audit.log")
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != keep+1 {
		t.Fatalf("files %q, %v: want %d", files, err, keep+1)
	}
	told := 0
	for _, f := range files {
		for _, events := range auditLines(t, f) {
			told += len(events)
		}
		if fi, err := os.Stat(f); err != nil || fi.Size() > size+1024 || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, fi, err)
		}
	}
	if len(auditLines(t, path)[last]) != 1 && len(auditLines(t, files[len(files)-1])[last]) != 1 {
		t.Errorf("the last of %d lines is not of the last request", told)
	}

	away := filepath.Join(t.TempDir(), "moved.log")
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(g.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another file", func() bool { _, err := os.Stat(path); return err == nil })
	g.admin(http.StatusCreated, "POST", "users", map[string]any{"name": "late", "robot": true})
	if got := readFile(t, path); !strings.Contains(got, `"subject":"late"`) {
		t.Errorf("the new file has %s", got)
	}
	g.send(nil, http.StatusUnauthorized, "GET", "/v2/", nil)
	g.send(g.basic("nobody", "no password of anybody"), http.StatusUnauthorized, "GET", "/v2/", nil) // "login" for who looks for secrets
}

// hookSecret signs what the webhook of a test is sent.
const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQPFv9nXWh0k="

// delivery is what a webhook is told.
type delivery struct {
	ID, Type, Subject string
	Data              struct {
		Repository, Tag, Digest, Client, Request string
		Actor                                    struct{ Account string }
	}
}

// hook is a receiver of webhooks, which goes down and comes back.
type hook struct {
	t      *testing.T
	addr   string
	verify *standardwebhooks.Webhook
	hold   chan struct{} // if not nil, answers wait until it is closed
	server *http.Server

	mu   sync.Mutex
	came []delivery // and were taken, at least once each
	seen map[string]bool
	held int
}

func newHook(t *testing.T) *hook {
	t.Helper()
	verify, err := standardwebhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	h := &hook{t: t, addr: freeaddr.For(t), verify: verify, seen: map[string]bool{}}
	t.Cleanup(h.down)
	return h
}

func (h *hook) config(events string) string {
	return fmt.Sprintf("webhooks: {test: {url: 'http://%s/berth', secret: %s, events: [%s]}}", h.addr, hookSecret, events)
}

func (h *hook) up() {
	h.t.Helper()
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.server = &http.Server{Handler: h}
	go func() { _ = h.server.Serve(l) }() // until it is closed
}

func (h *hook) down() {
	if h.server != nil {
		_ = h.server.Close() // what it has open is to be cut off
	}
	h.server = nil
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	var d delivery
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return // it was cut off
	}
	err := h.verify.Verify(body, r.Header)
	if err == nil {
		err = json.Unmarshal(body, &d)
	}
	if err != nil || r.Header.Get("Content-Type") != "application/cloudevents+json" || d.ID == "" {
		h.t.Errorf("webhook: %v in %v\n%s", err, r.Header, body)
	}
	h.mu.Lock()
	hold := h.hold
	h.held++
	h.mu.Unlock()
	if hold != nil {
		<-hold
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen[d.ID] {
		h.seen[d.ID], h.came = true, append(h.came, d)
	}
	w.WriteHeader(http.StatusNoContent)
}

// wants waits until the hook was told all that is wanted, of which it names type
// and subject, in that order and nothing else besides.
func (h *hook) wants(want ...string) {
	h.t.Helper()
	told := func() (all []string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, d := range h.came {
			all = append(all, strings.TrimPrefix(d.Type, "dev.berth.")+" "+d.Subject)
		}
		return all
	}
	waitFor(h.t, fmt.Sprintf("%d events", len(want)), func() bool { return len(told()) >= len(want) })
	if got := told(); !slices.Equal(got, want) {
		h.t.Errorf("the webhook was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// pushTag pushes an image of its own with a tag.
func pushTag(t *testing.T, w *wire, repo, tag string) {
	t.Helper()
	config := []byte(fmt.Sprintf(`{"tag":%q}`, tag))
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[]}`, ociManifest, mustJSON(descriptorOf("application/vnd.oci.image.config.v1+json", config)))
	for _, a := range []answer{must(w.pushBlob(repo, config))(t), must(w.pushManifest(repo, tag, data))(t)} {
		if a.status != http.StatusCreated {
			t.Fatalf("push %s: %s", tag, a)
		}
	}
}

// TestWebhooks has a webhook told of pushes, pulls and deletions: once it is there,
// and once the server is there again that was killed.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	s := berthtest.Start(t, berthtest.Options{Config: h.config("push, pull, delete")})
	w := newWire(s.URL)
	h.up()
	pushTag(t, w, "team/web", "v1")
	must(w.must(http.StatusOK, "GET", "/v2/team/web/manifests/v1", nil))(t)
	all := []string{"push team/web:v1", "pull team/web:v1"}
	h.wants(all...)

	h.down()
	pushTag(t, w, "team/web", "v2")
	must(w.must(http.StatusAccepted, "DELETE", "/v2/team/web/manifests/v1", nil))(t)
	for i := range 20 {
		pushTag(t, w, "team/web", fmt.Sprint("n", i))
	}
	s.Kill()
	s.Restart()
	pushTag(t, w, "team/web", "v3")
	h.up()
	all = append(all, "push team/web:v2", "delete team/web:v1")
	for i := range 20 {
		all = append(all, fmt.Sprint("push team/web:n", i))
	}
	all = append(all, "push team/web:v3")
	h.wants(all...)
	noSecrets(t, s.Log(), hookSecret)
}

// TestSlowWebhook pushes while a receiver keeps the first event and does not answer.
func TestSlowWebhook(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.hold = make(chan struct{})
	release := sync.OnceFunc(func() { close(h.hold) })
	t.Cleanup(release)
	h.up()
	s := berthtest.Start(t, berthtest.Options{Config: h.config("push")})
	w := newWire(s.URL)
	var want []string
	for i := range 50 { // would wait for ever if it waited for the receiver
		pushTag(t, w, "team/web", fmt.Sprint("n", i))
		want = append(want, fmt.Sprint("push team/web:n", i))
		if i == 0 {
			waitFor(t, "the first event at the receiver", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.held > 0
			})
		}
	}
	h.mu.Lock()
	if len(h.came) > 0 {
		t.Errorf("the receiver has answered: %v", h.came)
	}
	h.mu.Unlock()
	release()
	h.wants(want...)
}
