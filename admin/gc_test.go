package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/gc"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// stored is a fixture with content: two images that the tag team/app:v1 has named.
type stored struct {
	*fixture
	local    *registry.Local
	options  admin.Options
	old, now digest.Digest
}

func newStored(t testing.TB, meta storage.Meta) *stored {
	t.Helper()
	s := &stored{fixture: newFixture(t, meta)}
	var err error
	s.local, err = registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{
		Actor: func(context.Context) string { return "pusher" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.local.Close)
	s.local.SetKeeping(registry.Keeping{})
	policy, err := auth.NewPolicy(append(rules, auth.Rule{Who: []string{"group:dev"}, Repos: []string{"shared"}, May: auth.Pull}))
	if err != nil {
		t.Fatal(err)
	}
	s.options = admin.Options{
		Accounts: s.store, Tokens: s.tokens, Authority: policy, Audit: s.fixture,
		Collector: gc.New(s.local, gc.Options{}), Content: s.local,
	}
	s.handler = admin.New(s.options)
	s.old, s.now = s.image("team/app", "v1", "old"), s.image("team/app", "v1", "now")
	return s
}

// image pushes an image of one layer.
func (s *stored) image(repo, tag, text string) digest.Digest {
	s.t.Helper()
	layer := digest.FromString(text)
	if _, err := s.local.PushBlob(s.t.Context(), repo, layer, strings.NewReader(text)); err != nil {
		s.t.Fatal(err)
	}
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":%q,"size":%d},"layers":[]}`, layer, len(text))
	d := digest.FromBytes(data)
	if _, err := s.local.PushManifest(s.t.Context(), repo, registry.ManifestPush{Data: data, Digest: d, Tags: []string{tag}}); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stored) has(d digest.Digest) bool {
	_, _, err := s.local.Manifest(s.t.Context(), "team/app", registry.Reference{Digest: d})
	return err == nil
}

func (s *stored) client() *admin.Client { return admin.NewHandlerClient(admin.Local(s.handler)) }

func runs(items ...string) string {
	var list []string
	for _, item := range items {
		repo, d, _ := strings.Cut(item, "@")
		list = append(list, fmt.Sprintf(`{"repository":%q,"digest":%q}`, repo, d))
	}
	return `{"ttl":"1h","running":[` + strings.Join(list, ",") + `]}`
}

// Who may collect, report nodes and see history; and what a refusal leaves as it is.
func TestCollectorMatrix(t *testing.T) {
	for _, tt := range []struct {
		method, path, body string
		want               [14]int
	}{
		//                                  none anon alice key token ext  bob  job root group narrow wide token socket
		{"GET", "gc", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
		{"POST", "gc", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
		{"GET", "nodes", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
		{"POST", "nodes/new", "REPORT", [14]int{401, 401, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200}},
		{"POST", "nodes/a%2Fb", "REPORT", [14]int{401, 401, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400}},
		{"POST", "nodes/theirs", "REPORT", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
		{"DELETE", "nodes/theirs", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204}},
		{"DELETE", "nodes/none", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404}},
		{"GET", "history?repository=team/app", "", [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"GET", "history?repository=team/app&tag=v1&limit=1", "", [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"GET", "history?repository=team/app&tag=v2", "", [14]int{401, 401, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404}},
		{"GET", "history?repository=shared", "", [14]int{401, 401, 200, 404, 404, 404, 200, 404, 404, 404, 404, 404, 404, 200}},
		{"GET", "history?repository=..", "", [14]int{400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400}},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			for i, c := range callers() {
				s := newStored(t, mem.NewMeta())
				s.image("shared", "v1", "shared")
				if _, _, err := s.local.ReportRunning(t.Context(), registry.Report{Node: "theirs", By: "other", TTL: time.Hour}); err != nil {
					t.Fatal(err)
				}
				body := strings.Replace(tt.body, "REPORT", runs("team/app@"+string(s.old)), 1)
				w := serve(c.via(s.fixture), request(tt.method, admin.Prefix+tt.path, body))
				if w.Code != tt.want[i] {
					t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, tt.want[i])
				}
				if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
					t.Errorf("%s: no challenge", c.name)
				}
				if went := !s.has(s.old); went != (tt.method == "POST" && tt.path == "gc" && w.Code == 200) {
					t.Errorf("%s: garbage has gone: %v", c.name, went)
				}
				if w.Code >= 400 && strings.Contains(w.Body.String(), string(s.now)) {
					t.Errorf("%s is told %s", c.name, w.Body)
				}
			}
		})
	}
}

// What somebody may not pull is nothing that is there, to them.
func TestReportIsLimited(t *testing.T) {
	s := newStored(t, mem.NewMeta())
	other := s.image("other/app", "v1", "other")
	var got admin.Reported
	w := serve(s.as(&auth.Identity{Account: "alice", Source: "local"}), request("POST", admin.Prefix+"nodes/n",
		runs("team/app@"+string(s.old), "other/app@"+string(other), "other/none@"+string(other), "team/none@"+string(s.old))))
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if len(got.Unknown) != 3 || time.Until(got.Until) < 59*time.Minute {
		t.Errorf("%+v", got)
	}
	nodes, err := s.client().Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Running != 1 || nodes[0].Account != "alice" {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
}

// Reports that are wrong, twice in one, or too large, change nothing.
func TestReportIsWrong(t *testing.T) {
	s := newStored(t, mem.NewMeta())
	item := `{"repository":"team/app","digest":"` + string(s.old) + `"}`
	for body, want := range map[string]int{
		``:                               415,
		`{}`:                             400,
		`{"ttl":"1h","running":null}`:    200,
		`{"ttl":"200h","running":[]}`:    400,
		`{"ttl":"-1h","running":[]}`:     400,
		`{"ttl":"0s","running":[]}`:      400,
		`{"ttl":3600,"running":[]}`:      400,
		`{"ttl":"1h","running":[{}]}`:    400,
		`{"ttl":"1h","ttl":"2h"}`:        400,
		`{"ttl":"1h","digests":[]}`:      400,
		`{"ttl":"1h","running":[` + item: 400,
		`{"ttl":"1h","running":[` + strings.Repeat(item+",", registry.MaxRunning) + item + `]}`:                              400,
		`{"ttl":"1h","running":[` + strings.TrimSuffix(strings.Repeat(item+",", registry.MaxRunning), ",") + `]}`:            200,
		`{"ttl":"1h","running":[{"repository":"team/app","digest":"sha256:00"}]}`:                                            400,
		`{"ttl":"1h","running":[{"repository":"../x","digest":"` + string(s.old) + `"}]}`:                                    400,
		`{"ttl":"1h","running":[{"repository":"team/` + strings.Repeat("a", 3<<20) + `","digest":"` + string(s.old) + `"}]}`: 413,
	} {
		if w := serve(admin.Local(s.handler), request("POST", admin.Prefix+"nodes/n", body)); w.Code != want {
			t.Errorf("%.80s: %d %.200s, want %d", body, w.Code, w.Body, want)
		}
	}
	for query, want := range map[string]int{
		"": 400, "repository=": 400, "repository=team/app&limit=0": 400, "repository=team/app&limit=1001": 400,
		"repository=team/app&limit=x": 400, "repository=team/app&tag=-": 400, "repository=team/app;tag=v1": 400, "repository=team/app&limit=1000": 200,
	} {
		if w := serve(admin.Local(s.handler), request("GET", admin.Prefix+"history?"+query, "")); w.Code != want {
			t.Errorf("%s: %d %s, want %d", query, w.Code, w.Body, want)
		}
	}
}

// Without a policy anybody may see history and report nodes, as anybody may push; all
// else is for who is on the machine.
func TestCollectorWithoutPolicy(t *testing.T) {
	s := newStored(t, mem.NewMeta())
	s.options.Authority = nil
	s.handler = admin.New(s.options)
	for _, tt := range []struct {
		method, path, body string
		anybody            bool
		want               int
	}{
		{"GET", "gc", "", false, 403},
		{"POST", "gc", "", false, 403},
		{"GET", "nodes", "", false, 403},
		{"POST", "nodes/n", runs("team/app@" + string(s.old)), true, 200},
		{"DELETE", "nodes/n", "", false, 403},
		{"GET", "history?repository=team/app", "", true, 200},
		{"GET", "users", "", false, 403},
		{"GET", "nothing", "", false, 404},
	} {
		r := request(tt.method, admin.Prefix+tt.path, tt.body)
		if got := admin.ForAnybody(r); got != tt.anybody {
			t.Errorf("%s %s is for anybody: %v", tt.method, tt.path, got)
		}
		if w := serve(s.handler, r); w.Code != tt.want {
			t.Errorf("%s %s: %d %s, want %d", tt.method, tt.path, w.Code, w.Body, tt.want)
		}
	}
	if r := httptest.NewRequest(http.MethodGet, "/v2/", nil); admin.ForAnybody(r) {
		t.Error("the registry is taken for the administration")
	}
}

// The dry run says what a collection then removes, and why.
func TestCollectAsPlanned(t *testing.T) {
	meta, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db")) // of one process: what it was told it need not write down
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = meta.Close() }()
	s := newStored(t, meta)
	for i := range 600 { // more than a line has
		text := fmt.Sprint(i)
		if _, err := s.local.PushBlob(t.Context(), "team/app", digest.FromString(text), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	var planned, removed []admin.Garbage
	var queued, reviewed int
	client := s.client()
	if err := client.Plan(t.Context(), func(c admin.Collection) error { planned = append(planned, c.Removed...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !s.has(s.old) {
		t.Error("the dry run removes")
	}
	if err := client.Collect(t.Context(), func(c admin.Collection) error {
		queued, reviewed = queued+c.Queued, reviewed+c.Reviewed
		removed = append(removed, c.Removed...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kinds, gone := map[string]int{}, map[string]bool{}
	for _, g := range removed {
		gone[g.Kind+g.Repo+g.Digest] = true
	}
	for _, g := range planned {
		kinds[g.Kind+" "+g.Why]++
		if !gone[g.Kind+g.Repo+g.Digest] {
			t.Fatalf("planned and not removed: %+v", g)
		}
	}
	if len(removed) != len(planned) || queued < 601 || reviewed < queued {
		t.Errorf("planned %d, removed %d, queued %d, reviewed %d", len(planned), len(removed), queued, reviewed)
	}
	if kinds["manifest no tag, index or subject leads to it"] != 1 || kinds["link no manifest of the repository needs it"] != 601 || kinds["blob no repository needs it"] != 602 {
		t.Errorf("kinds %v", kinds)
	}
	if e := s.events[len(s.events)-1]; e.Kind != audit.ConfigChange || e.Action != "collect-garbage" || e.Outcome != audit.OK {
		t.Errorf("recorded %+v", e)
	}
}

// history is read with the latest first, also where it is long.
func TestHistoryIsLong(t *testing.T) {
	s := newStored(t, mem.NewMeta())
	var all []digest.Digest
	for i := range 30 {
		all = append(all, s.image("team/app", "v1", fmt.Sprint(i)))
	}
	h, err := s.client().History(t.Context(), "team/app", "", 7)
	if err != nil || len(h.Moves) != 7 || !h.More {
		t.Fatalf("%+v, %v", h, err)
	}
	for i, m := range h.Moves {
		if m.Digest != string(all[29-i]) || !m.Kept || m.Account != "pusher" || m.Tag != "v1" {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if h, err = s.client().History(t.Context(), "team/app", "v1", 32); err != nil || len(h.Moves) != 32 || h.More || h.Moves[31].Digest != string(s.old) {
		t.Errorf("%d moves, more: %v, %v", len(h.Moves), h.More, err)
	}
	if _, err := s.client().History(t.Context(), "team/none", "", 1); !errors.Is(err, registry.ErrNameUnknown) {
		t.Errorf("a repository that never was: %v", err)
	}
}

// stuck is a collector that goes on until it is told to stop.
type stuck struct{ ended chan error }

func (s *stuck) Plan(context.Context, bool) ([]registry.Garbage, error) {
	return nil, storage.ErrReadOnly
}

func (s *stuck) Now(ctx context.Context, progress func(registry.Collected)) error {
	for ctx.Err() == nil {
		progress(registry.Collected{Reviewed: 1})
	}
	s.ended <- ctx.Err()
	return ctx.Err()
}

// A client that goes ends the collection that it has asked for.
func TestCollectorStops(t *testing.T) {
	s := newStored(t, mem.NewMeta())
	c := &stuck{ended: make(chan error, 1)}
	s.options.Collector = c
	server := httptest.NewServer(admin.Local(admin.New(s.options)))
	t.Cleanup(server.Close)
	client := admin.NewClient(&http.Client{}, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	parts := 0
	err := client.Collect(ctx, func(admin.Collection) error {
		if parts++; parts == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-c.ended; err == nil {
		t.Error("it has ended by itself")
	}
	if err := client.Plan(t.Context(), nil); !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a store that cannot be read: %v", err)
	}
}

// A server without content says so.
func TestCollectorNotOffered(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	for _, tt := range [][2]string{{"GET", "gc"}, {"POST", "gc"}, {"GET", "nodes"}, {"DELETE", "nodes/n"}, {"GET", "history?repository=a"}} {
		if w := serve(admin.Local(f.handler), request(tt[0], admin.Prefix+tt[1], "")); w.Code != 404 {
			t.Errorf("%v: %d %s", tt, w.Code, w.Body)
		}
	}
}
