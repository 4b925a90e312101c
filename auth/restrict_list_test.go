package auth

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/registry"
)

// counting counts the names that are read of it.
type counting struct {
	registry.Registry
	names []string
	read  int
	lists int
}

func (c *counting) Repositories(_ context.Context, after string) iter.Seq2[string, error] {
	c.lists++
	return func(yield func(string, error) bool) {
		i, found := slices.BinarySearch(c.names, after)
		if found {
			i++
		}
		for _, name := range c.names[i:] {
			c.read++
			if !yield(name, nil) {
				return
			}
		}
	}
}

func (c *counting) Search(_ context.Context, term string) iter.Seq2[registry.SearchResult, error] {
	return func(yield func(registry.SearchResult, error) bool) {
		for _, name := range c.names {
			if strings.Contains(name, term) && !yield(registry.SearchResult{Name: name}, nil) {
				return
			}
		}
	}
}

func names(t *testing.T, seq iter.Seq2[string, error], most int) (all []string) {
	t.Helper()
	for name, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, name); len(all) == most {
			break
		}
	}
	return all
}

// A list has what the caller may pull, wherever a page starts.
func TestLists(t *testing.T) {
	for seed := range uint64(100) {
		r := random{newRand(seed)}
		rules := make([]Rule, 1+r.IntN(6))
		for i := range rules {
			rules[i] = r.rule()
		}
		p := policy(t, rules...)
		inner := &counting{}
		for range 150 {
			inner.names = append(inner.names, r.repo())
		}
		slices.Sort(inner.names)
		inner.names = slices.Compact(inner.names)
		restricted := Restrict(inner, p, nil)
		for range 10 {
			id := *r.identity()
			if r.IntN(3) == 0 && !id.IsAnonymous() {
				id.Grants = []Grant{{r.pattern(), Pull}, {r.pattern(), Pull | Push}, {r.pattern(), Push}}
				id.Scoped, id.Final = r.IntN(3) == 0, r.IntN(3) == 0
				if r.IntN(2) == 0 {
					id.Bounds = []Grant{{r.pattern(), Pull}, {r.pattern(), Push}}
				}
			}
			ctx, after := as(t.Context(), &id), r.repo()
			if id.IsAnonymous() && len(p.Prefixes(&id, Pull)) == 0 {
				continue
			}
			var want, found []string
			for _, name := range inner.names {
				policyOnly := id
				if id.Scoped && !id.Final {
					policyOnly.Grants = id.Bounds
				}
				if Allowed(p, &policyOnly, name, Pull) {
					want = append(want, name)
				}
			}
			for result, err := range restricted.Search(ctx, "") {
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, result.Name)
			}
			if !slices.Equal(found, want) {
				t.Fatalf("seed %d: %+v finds %q, want %q", seed, id, found, want)
			}
			if got := names(t, restricted.Repositories(ctx, ""), -1); !slices.Equal(got, want) {
				t.Fatalf("seed %d: %+v: list %q, want %q", seed, id, got, want)
			}
			i, exact := slices.BinarySearch(want, after)
			if exact {
				i++
			}
			if got := names(t, restricted.Repositories(ctx, after), -1); !slices.Equal(got, want[i:]) {
				t.Fatalf("seed %d: %+v: list after %q %q, want %q", seed, id, after, got, want[i:])
			}
		}
	}
}

// A page costs the page, however many repositories there are that the caller may
// not pull.
func TestListCostsThePage(t *testing.T) {
	inner := &counting{}
	for team := range 200 {
		for app := range 100 {
			inner.names = append(inner.names, fmt.Sprintf("team-%d/app-%d", team, app))
		}
	}
	slices.Sort(inner.names)
	p := policy(t, allow("alice", "team-150/** team-42/app-7 team-7/** gone/** team-199/*", Pull), allow("bob", "team-3/**", Push))
	r := Restrict(inner, p, nil)
	got := names(t, r.Repositories(as(t.Context(), alice), ""), -1)
	if len(got) != 301 {
		t.Errorf("got %d names, want 301", len(got))
	}
	if inner.read > 301+100 || inner.lists > 10 {
		t.Errorf("%d names read in %d lists for 301", inner.read, inner.lists)
	}
	inner.read = 0
	if got := names(t, r.Repositories(as(t.Context(), alice), "team-7/app-98"), 1); !slices.Equal(got, []string{"team-7/app-99"}) || inner.read > 10 {
		t.Errorf("got %q, %d names read", got, inner.read)
	}
	inner.read, inner.lists = 0, 0
	if got := names(t, r.Repositories(as(t.Context(), bob), ""), -1); len(got) > 0 || inner.lists > 0 {
		t.Errorf("got %q, %d lists", got, inner.lists)
	}
	final := &Identity{Final: true, Scoped: true, Grants: []Grant{{"", Pull}}}
	if got := names(t, r.Repositories(as(t.Context(), final), ""), -1); !slices.Equal(got, inner.names) {
		t.Errorf("who was granted the list has %d names of %d", len(got), len(inner.names))
	}
	final.Grants = []Grant{{"", Push}}
	for _, err := range r.Repositories(as(t.Context(), final), "") {
		if !errors.Is(err, registry.ErrUnauthorized) || header(err) != `Test scope="registry:catalog:*" insufficient=true` {
			t.Errorf("too narrow a token: %v, %q", err, header(err))
		}
	}
	for _, err := range r.Repositories(as(t.Context(), Anonymous), "") {
		if !errors.Is(err, registry.ErrUnauthorized) || header(err) != `Test scope="registry:catalog:*" insufficient=false` {
			t.Errorf("anonymous: %v, %q", err, header(err))
		}
	}
}
