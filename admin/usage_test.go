package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// withUsage is a fixture whose repositories hold something.
func withUsage(t *testing.T, repos ...string) *fixture {
	t.Helper()
	meta := storage.Meta(mem.NewMeta())
	f := newFixture(t, meta)
	local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	local.SetQuotas([]registry.Quota{{Name: "team/**", Bytes: 100, Match: func(repo string) bool { return strings.HasPrefix(repo, "team/") }}})
	for _, repo := range repos {
		for _, text := range []string{"shared by all", repo} {
			if _, err := local.PushBlob(t.Context(), repo, digest.FromString(text), strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	policy, err := auth.NewPolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = admin.New(admin.Options{Accounts: f.store, Tokens: f.tokens, Authority: policy, Usage: local})
	return f
}

// TestUsageCallers shows each caller what it may pull, and nothing of others.
func TestUsageCallers(t *testing.T) {
	f := withUsage(t, "aaa", "team/a", "team/b/c", "teal/x", "team", "zzz")
	all, team := []string{"aaa", "teal/x", "team", "team/a", "team/b/c", "zzz"}, []string{"team/a", "team/b/c"}
	want := map[string][]string{
		"person": team, "key": {"team/a"}, "registry token": {"team/a"}, "external token": {}, "other account": {}, "job": {},
		"admin": all, "admin by group": all, "admin's wide key": all, "admin's narrow key": {}, "admin's registry token": {}, "socket": all,
	}
	for _, who := range callers() {
		for limit := range 4 { // 0 is no limit
			w := serve(who.via(f), request("GET", fmt.Sprintf("/api/v1/usage?limit=%d", max(1, limit)), ""))
			if limit == 0 {
				w = serve(who.via(f), request("GET", "/api/v1/usage", ""))
			}
			names, known := want[who.name]
			if !known {
				if w.Code != 401 {
					t.Errorf("%s: %d, want 401", who.name, w.Code)
				}
				continue
			}
			var got []string
			for n := range 10 {
				var page admin.UsagePage
				if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
					t.Fatalf("%s: %d %s", who.name, w.Code, w.Body)
				}
				admins := len(names) == len(all)
				if first := n == 0; (page.Total != nil) != (first && admins) || (page.Quotas != nil) != (first && admins) {
					t.Errorf("%s is told the sums: %s", who.name, w.Body)
				}
				for _, u := range page.Repos {
					got = append(got, u.Repo)
					if u.Bytes != int64(len("shared by all")+len(u.Repo)) || (u.Own != nil) != admins || admins && *u.Own != int64(len(u.Repo)) {
						t.Errorf("%s: %+v", who.name, u)
					}
				}
				if page.Next == "" {
					break
				}
				w = serve(who.via(f), request("GET", fmt.Sprintf("/api/v1/usage?limit=%d&after=%s", limit, page.Next), ""))
			}
			if !slices.Equal(got, names) {
				t.Errorf("%s, limit %d: %v, want %v", who.name, limit, got, names)
			}
		}
	}
}

// TestUsageOfOne tells of a repository that may not be pulled what is told of one
// that is not there.
func TestUsageOfOne(t *testing.T) {
	f := withUsage(t, "team/a", "zzz")
	alice := f.as(&auth.Identity{Account: "alice", Source: accounts.Source})
	there := serve(alice, request("GET", "/api/v1/usage?repository=zzz", ""))
	absent := serve(alice, request("GET", "/api/v1/usage?repository=zzy", ""))
	if there.Code != 404 || strings.ReplaceAll(there.Body.String(), "zzz", "zzy") != absent.Body.String() {
		t.Errorf("of zzz %s, of zzy %s", there.Body, absent.Body)
	}
	c := admin.NewHandlerClient(admin.Local(f.handler))
	page, err := c.UsageOf(t.Context(), "zzz", "team/a")
	if err != nil || len(page.Repos) != 2 || page.Total == nil || page.Total.Saved != int64(len("shared by all")) || page.Quotas[0].Bytes != int64(len("shared by all")+len("team/a")) {
		t.Errorf("%+v, %v", page, err)
	}
	if _, err := c.UsageOf(t.Context(), "zzz", "zzy"); !errors.Is(err, registry.ErrNameUnknown) && (err == nil || !strings.Contains(err.Error(), "zzy holds nothing")) {
		t.Errorf("of one that is not there: %v", err)
	}
	for _, bad := range []string{"limit=0", "limit=-1", "limit=10001", "limit=99999999999999999999", "limit=x", "after=A", "after=%00", "after=..%2f", "repository=", "repository=A&repository=b", "%zz", "after=a;b"} {
		if w := serve(admin.Local(f.handler), request("GET", "/api/v1/usage?"+bad, "")); w.Code != 400 {
			t.Errorf("?%s: %d %s", bad, w.Code, w.Body)
		}
	}
}

// TestUsageOfMany lists 100,000 repositories as fast as one can read.
func TestUsageOfMany(t *testing.T) {
	meta := mem.NewMeta()
	f := newFixture(t, meta)
	if err := meta.Update(t.Context(), func(tx storage.Tx) error {
		for i := range 100_000 {
			if err := storage.Usages.Put(tx, storage.Key(fmt.Sprintf("some/group-%d/r%d", i%100, i)), storage.Usage{Bytes: int64(i), Own: 1}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	c := admin.NewHandlerClient(admin.Local(admin.New(admin.Options{Accounts: f.store, Usage: local})))
	start, n := time.Now(), 0
	for after := ""; ; {
		page, err := c.Usage(t.Context(), after, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n += len(page.Repos); page.Next == "" {
			break
		}
		after = page.Next
	}
	if took := time.Since(start); n != 100_000 || took > 10*time.Second {
		t.Errorf("%d repositories in %s", n, took)
	} else {
		t.Logf("in %s", took)
	}
}
