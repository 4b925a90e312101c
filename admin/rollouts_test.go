package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/rollout/hub"
	"github.com/berth-registry/berth/storage/mem"
)

var shop = rollout.Ref{Repo: "team/app", Tag: "v1"}

// newRolling is a fixture whose tag team/app:v1 is followed by a node of alice, which has
// run the old image, and then its new one.
func newRolling(t testing.TB) (*stored, *hub.Hub) {
	t.Helper()
	meta := mem.NewMeta()
	s := newStored(t, meta)
	store := rollout.NewStore(meta, s.local, rollout.Options{})
	h := hub.New(store, hub.Options{Meta: meta, Every: time.Millisecond})
	s.options.Rollouts, s.options.Watches, s.options.Cached = store, h, s.local.Cached
	s.handler = admin.New(s.options)
	move := func(from, to digest.Digest) {
		if err := s.local.MoveTag(t.Context(), shop.Repo, shop.Tag, from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(s.now, s.old)
	for _, d := range []digest.Digest{s.old, s.now} {
		if d == s.now {
			move(s.old, s.now)
		}
		if _, err := store.Follow(t.Context(), shop, rollout.Report{Node: "theirs", By: "alice", State: rollout.NodeRunning, Running: string(d), Interval: rollout.Duration(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	return s, h
}

// Who may follow, wait, see and steer; what a refusal tells, and what the audit is told.
func TestRolloutMatrix(t *testing.T) {
	const report = `{"node":"NODE","running":"","target":"","state":"running","since":"2026-11-27T00:00:00Z","interval":"30s"}`
	for _, tt := range []struct {
		method, path, body string
		want               [14]int
	}{
		//                                                       none anon alice key token ext  bob  job root group narrow wide token socket
		{"POST", "follow/team%2Fapp:v1", strings.Replace(report, "NODE", "new", 1), [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"POST", "follow/team%2Fapp:v1", strings.Replace(report, "NODE", "theirs", 1), [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"POST", "follow/shared:v1", strings.Replace(report, "NODE", "theirs", 1), [14]int{401, 401, 200, 404, 404, 404, 403, 404, 404, 404, 404, 404, 404, 200}},
		{"POST", "follow/team%2Fapp:v1", "{}", [14]int{401, 401, 400, 400, 400, 404, 404, 404, 404, 404, 404, 404, 404, 400}},
		{"POST", "follow/team%2Fapp", "{}", [14]int{401, 401, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400}},
		{"POST", "follow/team%2F..%2Fapp:v1", "{}", [14]int{401, 401, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 400}},
		{"GET", "watch/team%2Fapp:v1?version=x", "", [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"GET", "watch/team%2Fapp:v1?timeout=6m", "", [14]int{401, 401, 400, 400, 400, 404, 404, 404, 404, 404, 404, 404, 404, 400}},
		{"GET", "rollouts", "", [14]int{200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200}},
		{"GET", "rollouts/team%2Fapp:v1", "", [14]int{401, 401, 200, 200, 200, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"GET", "rollouts/team%2Fapp:v2", "", [14]int{401, 401, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404}},
		{"POST", "rollouts/team%2Fapp:v1/pause", "{}", [14]int{401, 401, 200, 403, 403, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"POST", "rollouts/team%2Fapp:v1/resume", "{}", [14]int{401, 401, 409, 403, 403, 404, 404, 404, 404, 404, 404, 404, 404, 409}},
		{"POST", "rollouts/team%2Fapp:v1/undo", "{}", [14]int{401, 401, 200, 403, 403, 404, 404, 404, 404, 404, 404, 404, 404, 200}},
		{"POST", "rollouts/shared:v1/pause", "{}", [14]int{401, 401, 403, 404, 404, 404, 403, 404, 404, 404, 404, 404, 404, 404}},
		{"POST", "rollouts/team%2Fapp:v1/explode", "{}", [14]int{404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404}},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			for i, c := range callers() {
				s, _ := newRolling(t)
				s.image("shared", "v1", "shared")
				w := serve(c.via(s.fixture), request(tt.method, admin.Prefix+tt.path, tt.body))
				if w.Code != tt.want[i] {
					t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, tt.want[i])
				}
				if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
					t.Errorf("%s: no challenge", c.name)
				}
				may := c.name == "person" || c.name == "key" || c.name == "registry token" || c.name == "socket"
				if !may && (strings.Contains(w.Body.String(), string(s.now)) || strings.Contains(w.Body.String(), "theirs")) {
					t.Errorf("%s is told %s", c.name, w.Body)
				}
				steers := strings.HasPrefix(tt.path, "rollouts/") && tt.method == "POST" && !strings.HasSuffix(tt.path, "explode")
				if (len(s.events) == 1) != steers {
					t.Errorf("%s: recorded %+v", c.name, s.events)
				}
				if steers && (s.events[0].Outcome == audit.OK) != (w.Code == 200) {
					t.Errorf("%s: recorded %+v", c.name, s.events)
				}
			}
		})
	}
}

// TestRolloutClient goes through all with the client, in the same process.
func TestRolloutClient(t *testing.T) {
	s, h := newRolling(t)
	go h.Run(t.Context())
	c, ctx := s.client(), t.Context()
	list, err := c.Rollouts(ctx)
	if err != nil || len(list.Rollouts) != 1 || list.Rollouts[0].State != rollout.Done {
		t.Fatalf("%+v, %v", list, err)
	}
	r := rollout.Report{Node: "theirs", State: rollout.NodeRunning, Running: string(s.now), Interval: rollout.Duration(time.Minute)}
	a, err := c.Follow(ctx, shop, r)
	if err != nil || a.Digest != string(s.now) || a.Version == "" {
		t.Fatalf("%+v, %v", a, err)
	}
	if v, err := c.Watch(ctx, shop, a.Version, time.Millisecond); err != nil || v != a.Version {
		t.Errorf("%s, %v", v, err)
	}
	news := make(chan error, 1)
	go func() {
		v, err := c.Watch(ctx, shop, a.Version, time.Minute)
		if err == nil && v == a.Version {
			err = errors.New("nothing is new")
		}
		news <- err
	}()
	st, err := c.UndoRollout(ctx, shop)
	if err != nil || st.State != rollout.Undone || st.Digest != string(s.old) || len(st.Nodes) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := <-news; err != nil {
		t.Error(err)
	}
	if a, err := c.Follow(ctx, shop, r); err != nil || a.Digest != string(s.old) {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := c.PauseRollout(ctx, shop); !errors.Is(err, admin.ErrRolloutState) {
		t.Errorf("%v", err)
	}
	if _, err := c.Rollout(ctx, rollout.Ref{Repo: "a", Tag: "b"}); !errors.Is(err, admin.ErrRolloutUnknown) {
		t.Errorf("%v", err)
	}
	if err := c.RemoveNode(ctx, "theirs"); err != nil {
		t.Error(err)
	}
	if st, err := c.Rollout(ctx, shop); err != nil || len(st.Nodes) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := c.RemoveNode(ctx, "theirs"); !errors.Is(err, admin.ErrNodeUnknown) {
		t.Errorf("%v", err)
	}
}

// Without a policy anybody may follow, and steer, as anybody may push. A server that does
// not offer it says that there is no such route.
func TestRolloutWithoutPolicy(t *testing.T) {
	s, _ := newRolling(t)
	s.options.Authority = nil
	s.handler = admin.New(s.options)
	for path, want := range map[string]int{"follow/team%2Fapp:v1": 400, "rollouts/team%2Fapp:v1/pause": 200} {
		r := request("POST", admin.Prefix+path, "{}")
		if w := serve(s.handler, r); w.Code != want || !admin.ForAnybody(r) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	bare := admin.New(admin.Options{Accounts: s.store, Content: s.local})
	for _, path := range []string{"rollouts", "rollouts/a:b", "watch/a:b"} {
		if w := serve(bare, request("GET", admin.Prefix+path, "")); w.Code != 404 || !strings.Contains(w.Body.String(), registry.ErrRouteUnknown.Code) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// What a mirror has cached is not followed: its tags are moved elsewhere.
func TestRolloutOfCache(t *testing.T) {
	s, _ := newRolling(t)
	s.options.Cached = func(string) bool { return true }
	s.handler = admin.New(s.options)
	w := serve(admin.Local(s.handler), request("GET", admin.Prefix+"watch/team%2Fapp:v1?version=x", ""))
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), registry.ErrRouteUnknown.Code) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Reports that are large, or of a shape that nobody knows, are refused.
func TestFollowIsWrong(t *testing.T) {
	s, _ := newRolling(t)
	h := s.as(&auth.Identity{Account: "alice", Source: "local"})
	line, err := json.Marshal(strings.Repeat("x", 1000))
	if err != nil {
		t.Fatal(err)
	}
	body := func(more string) string {
		return `{"node":"n","state":"running","running":"","target":"","interval":"30s"` + more + `}`
	}
	for text, want := range map[string]int{
		body(``): 200, body(`,"node":"m"`): 400, body(`,"colour":"blue"`): 400, body(`,"since":"yesterday"`): 400, body(`,"log":[` + string(line) + `]`): 200,
		body(fmt.Sprintf(`,"log":[%s%s]`, strings.Repeat(string(line)+",", 200), line)): 413, body(`,"labels":[]`): 400, ``: 415, `[]`: 400,
	} {
		if w := serve(h, request("POST", admin.Prefix+"follow/team%2Fapp:v1", text)); w.Code != want {
			t.Errorf("%.100s: %d %s, want %d", text, w.Code, w.Body, want)
		}
	}
}

// A node that has reported does not keep its connection until the next report.
func TestFollowEndsConnection(t *testing.T) {
	s, _ := newRolling(t)
	s.options.Authority = nil
	s.handler = admin.New(s.options)
	for _, two := range []bool{false, true} {
		server := httptest.NewUnstartedServer(s.handler)
		server.EnableHTTP2 = two
		server.StartTLS()
		resp, err := server.Client().Post(server.URL+admin.Prefix+"follow/team%2Fapp:v1", "application/json",
			strings.NewReader(`{"node":"n","state":"running","running":"","target":"","interval":"30s"}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // nothing was written
		if resp.StatusCode != http.StatusOK || resp.Close == two || resp.ProtoMajor == 2 != two {
			t.Errorf("%s: %s, ends the connection: %v", resp.Proto, resp.Status, resp.Close)
		}
		server.Close()
	}
}
