package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/api"
	"github.com/berth-registry/berth/runner"
)

// whole is a request with something in all that a stack has.
func whole() deploy.Request {
	d := digest.FromString("content")
	ports := network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "8080"}}}
	return deploy.Request{
		Stack: deploy.Stack{
			Name: "shop", Keep: 2, Source: "services: {}\n",
			Services: []deploy.Service{{
				Name: "web", Image: "web:1", Digest: digest.FromString("image"), Replicas: 2, Ports: ports,
				Container: container.CreateRequest{
					Config:           &container.Config{Image: "web:1", Env: []string{"A=b"}, Labels: map[string]string{"x": "y"}},
					HostConfig:       &container.HostConfig{Binds: []string{"data:/data"}, Resources: container.Resources{Memory: 1 << 20}},
					NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"shop_default": {Aliases: []string{"web"}}}},
				},
				Files:  []deploy.File{{Name: "conf", Target: "/conf", Mode: 0o444, Content: d}},
				Needs:  []deploy.Need{{Service: "db", Condition: deploy.NeedHealthy, Restart: true}},
				Routes: []deploy.Route{{Hosts: []string{"shop.example.com"}, Port: 80, TLS: deploy.TLSOff, TryFor: time.Second}},
				Steps:  []deploy.CanaryStep{{Weight: 10, Pause: time.Minute}}, Strategy: deploy.Canary,
				Update: deploy.Update{Parallelism: 1, Monitor: time.Second, FailureAction: deploy.OnFailurePause},
			}},
			Networks: []deploy.Network{{Key: "default", Name: "shop_default"}},
			Volumes:  []deploy.Volume{{Key: "data", Name: "shop_data"}},
		},
		Contents: deploy.Contents{d: []byte("content\x00\xff")},
		By:       "alice@host", From: "compose.yaml",
		Auth: map[string]registry.AuthConfig{"localhost:5000": {Username: "alice", Password: "secret"}},
	}
}

// TestWay has everything go both ways and come out as it went in.
func TestWay(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 1, 2, 3, 4, time.UTC)
	f := &fake{
		events: []deploy.Event{
			{Time: at, Stack: "shop", Service: "web", Kind: deploy.EventStep, Message: "pull <image>"},
			{Time: at, Stack: "shop", Container: "shop-web-r1-1", Kind: deploy.EventLog, Message: "line\nand \x1b"},
		},
		revision: deploy.Revision{Number: 3, By: "alice", Started: at, Outcome: deploy.Deployed, Images: map[string]digest.Digest{"web": digest.FromString("image")}},
		plan:     deploy.Plan{Stack: "shop", Revision: 3, Steps: []deploy.Step{{Kind: deploy.StepCreate, Service: "web", Containers: []string{"shop-web-r3-1"}}}},
		stacks:   []deploy.Status{{Name: "shop", Revision: 3, Drift: []string{"x"}, Services: []deploy.ServiceStatus{{Name: "web", Ready: 1}}}},
		history:  []deploy.Revision{{Number: 2, Kept: true}, {Number: 1, Reason: "no"}},
		stack:    whole().Stack,
	}
	_, c := connect(t, f)
	ctx := t.Context()
	var events []deploy.Event
	watch := func(e deploy.Event) { events = append(events, e) }
	for _, test := range []struct {
		do    func() (any, error)
		asked []any
		want  any
		lasts bool
	}{
		{func() (any, error) { return c.Deploy(ctx, whole(), watch) }, []any{"deploy", whole()}, f.revision, true},
		{func() (any, error) { return c.Rollback(ctx, "shop", 2, "bob & co", watch) }, []any{"rollback", "shop", 2, "bob & co"}, f.revision, true},
		{func() (any, error) { return c.Scale(ctx, "shop", map[string]int{"web": 0}, "bob", watch) }, []any{"scale", "shop", map[string]int{"web": 0}, "bob"}, f.revision, true},
		{func() (any, error) { return nil, c.Remove(ctx, "shop", true, watch) }, []any{"remove", "shop", true}, nil, true},
		{func() (any, error) { return nil, c.Remove(ctx, "shop", false, watch) }, []any{"remove", "shop", false}, nil, true},
		{func() (any, error) { return nil, c.Cancel(ctx, "shop") }, []any{"cancel", "shop"}, nil, false},
		{func() (any, error) { return c.Plan(ctx, whole()) }, []any{"plan", whole()}, f.plan, false},
		{func() (any, error) { return c.Stacks(ctx) }, []any{"stacks"}, f.stacks, false},
		{func() (any, error) { return c.Status(ctx, "shop") }, []any{"status", "shop"}, f.stacks[0], false},
		{func() (any, error) { return c.History(ctx, "shop") }, []any{"history", "shop"}, f.history, false},
		{func() (any, error) { return c.Stack(ctx, "shop", 2) }, []any{"stack", "shop", 2}, f.stack, false},
	} {
		events, f.asked = nil, nil
		got, err := test.do()
		if err != nil {
			t.Errorf("%v: %v", test.asked[0], err)
			continue
		}
		if !reflect.DeepEqual(f.asked, test.asked) {
			t.Errorf("%v: the backend is asked\n%+v, want\n%+v", test.asked[0], f.asked, test.asked)
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%v: got\n%+v, want\n%+v", test.asked[0], got, test.want)
		}
		if test.lasts && !reflect.DeepEqual(events, f.events) {
			t.Errorf("%v: events\n%+v, want\n%+v", test.asked[0], events, f.events)
		}
	}
}

// TestErrors has errors keep what they are, whether anything was told before or not.
func TestErrors(t *testing.T) {
	t.Parallel()
	kinds := []error{
		runner.ErrInvalid, runner.ErrUnauthorized, runner.ErrForbidden, runner.ErrNotFound, runner.ErrConflict,
		runner.ErrPrecondition, runner.ErrNotImplemented, runner.ErrUnavailable,
	}
	for _, begun := range []bool{false, true} {
		f := &fake{}
		if begun {
			f.events = []deploy.Event{{Kind: deploy.EventStep}}
		}
		_, c := connect(t, f)
		for _, kind := range kinds {
			f.err = runner.Errorf(kind, "what is wrong")
			if _, err := c.Deploy(t.Context(), whole(), nil); !errors.Is(err, kind) || err.Error() != "what is wrong" {
				t.Errorf("begun %v: got %v, want a %v", begun, err, kind)
			}
			if _, err := c.Status(t.Context(), "shop"); !errors.Is(err, kind) {
				t.Errorf("status: got %v, want a %v", err, kind)
			}
		}
		f.err = errors.New("of no kind")
		if _, err := c.Deploy(t.Context(), whole(), nil); err == nil || err.Error() != "of no kind" {
			t.Errorf("got %v", err)
		}
		want := &deploy.Failure{
			Revision: deploy.Revision{Number: 5, Outcome: deploy.RolledBack}, Service: "web", Container: "shop-web-r5-1",
			ExitCode: 3, Reason: "it ended", Log: []string{"a", "b"},
		}
		f.err = fmt.Errorf("deploying: %w", want)
		_, err := c.Rollback(t.Context(), "shop", 0, "", nil)
		got, ok := errors.AsType[*deploy.Failure](err)
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// TestClientLeaves has a client that goes away end its watching, and the backend know
// of it.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	f := &fake{events: []deploy.Event{{Kind: deploy.EventStep}}, during: func(ctx context.Context, _ func(deploy.Event)) {
		<-ctx.Done()
		close(left)
	}}
	_, c := connect(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Deploy(ctx, whole(), func(deploy.Event) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	<-left
}

// TestClientTakesNothing has a client that asks and never reads hold nobody up: whoever
// tells events does not wait, and is told that nobody listens.
func TestClientTakesNothing(t *testing.T) {
	t.Parallel()
	done := make(chan int)
	f := &fake{during: func(ctx context.Context, watch func(deploy.Event)) {
		n := 0
		for text := strings.Repeat("x", 1000); ctx.Err() == nil; n++ {
			watch(deploy.Event{Kind: deploy.EventDetail, Message: text})
		}
		done <- n
	}}
	d, _ := connect(t, f)
	conn, err := d.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /berth/v1/stacks/shop/rollback HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if n := <-done; n < 1000 {
		t.Errorf("given up after %d events", n)
	}
}

// TestDaemonLeaves has the daemon go away while a client watches, before it has begun
// to answer and after.
func TestDaemonLeaves(t *testing.T) {
	t.Parallel()
	f := &fake{events: []deploy.Event{{Kind: deploy.EventStep}}, during: func(ctx context.Context, _ func(deploy.Event)) { <-ctx.Done() }}
	d, c := connect(t, f)
	_, err := c.Deploy(t.Context(), whole(), func(deploy.Event) { _ = d.server.Close() })
	if !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("got %v, want a %v", err, runner.ErrUnavailable)
	}
	f = &fake{}
	d, c = connect(t, f)
	f.during = func(ctx context.Context, _ func(deploy.Event)) {
		_ = d.server.Close()
		<-ctx.Done()
	}
	if _, err := c.Rollback(t.Context(), "shop", 0, "", nil); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("before the answer: got %v, want a %v", err, runner.ErrUnavailable)
	}
}

// TestPanic has a backend that panics cost one request, before the answer has begun
// and after.
func TestPanic(t *testing.T) {
	t.Parallel()
	f := &fake{during: func(context.Context, func(deploy.Event)) { panic("oh") }}
	_, c := connect(t, f)
	if _, err := c.Deploy(t.Context(), whole(), nil); err == nil || err.Error() != "panic while serving a request" {
		t.Errorf("got %v", err)
	}
	told := make(chan struct{})
	f.events = []deploy.Event{{Kind: deploy.EventStep}}
	f.during = func(context.Context, func(deploy.Event)) { <-told; panic("oh") }
	if _, err := c.Deploy(t.Context(), whole(), func(deploy.Event) { close(told) }); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := c.Cancel(t.Context(), "shop"); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestMany has many clients watch at once, each its own.
func TestMany(t *testing.T) {
	t.Parallel()
	f := &fake{during: func(_ context.Context, watch func(deploy.Event)) {
		for i := range 100 {
			watch(deploy.Event{Kind: deploy.EventDetail, Message: fmt.Sprint(i)})
		}
	}, revision: deploy.Revision{Number: 1}}
	_, c := connect(t, f)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			n := 0
			r, err := c.Scale(t.Context(), "shop", map[string]int{"web": 1}, "", func(e deploy.Event) {
				if e.Message != fmt.Sprint(n) {
					t.Errorf("event %s, want %d", e.Message, n)
				}
				n++
			})
			if err != nil || r.Number != 1 || n != 100 {
				t.Errorf("got %v, %v after %d events", r, err, n)
			}
		})
	}
	all.Wait()
}

// TestOther has a daemon that is another one recognized, whatever it answers.
func TestOther(t *testing.T) {
	t.Parallel()
	for _, h := range []http.Handler{
		http.NotFoundHandler(),
		http.RedirectHandler("/elsewhere", http.StatusFound),
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[]")) }),
	} {
		c := serve(t, h).client(t)
		if _, err := c.Stacks(t.Context()); !errors.Is(err, api.ErrOther) {
			t.Errorf("got %v, want %v", err, api.ErrOther)
		}
	}
}
