package main

import (
	"bytes"
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	stacks "github.com/berth-registry/berth/deploy/api"
	"github.com/berth-registry/berth/runner"
)

func TestPrintFollowing(t *testing.T) {
	t.Parallel()
	a, b := digest.FromString("a"), digest.FromString("b")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	list := []deploy.Following{
		{Stack: "fine", Ref: "r/fine:prod", Node: "n1", State: runner.FollowRunning, Running: a, Tag: a, Heard: at},
		{Stack: "waits", State: runner.FollowRunning, Running: a, Tag: b, Reason: "paused", Heard: at},
		{Stack: "deploys", State: runner.FollowDeploying, Running: a, Tag: b, Target: b, Heard: at},
		{Stack: "failed", State: runner.FollowFailed, Running: a, Tag: b, Target: b, Error: "no database\x1b[2J", Heard: at},
		{Stack: "alone", State: runner.FollowRunning, Running: a, Tag: a, Heard: at, Away: "connection refused"},
		{Stack: "new", State: runner.FollowRunning, Away: "connection refused"},
	}
	s := httptest.NewServer(stacks.New(nil, stacks.Options{Following: func() []deploy.Following { return list }}))
	defer s.Close()
	c := &runnerClient{Client: stacks.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	})}
	defer c.Client.Close()
	var out bytes.Buffer
	if err := printFollowing(t.Context(), &out, c, ""); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"fine r/fine:prod n1 ca978112ca1b", "ca978112ca1b running", "waiting: paused", "deploying 3e23e8160039", "failed 3e23e8160039",
		"failed: 3e23e8160039 has failed: no database?[2J", "on its own since", "alone: the registry does not answer: connection refused", "not heard yet",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in %s", want, out.String())
		}
	}
	out.Reset()
	if err := printFollowing(t.Context(), &out, c, "fine"); err != nil || strings.Contains(out.String(), "waits") || !strings.Contains(out.String(), "fine") {
		t.Errorf("of one: %s, %v", out.String(), err)
	}
	list, out = nil, bytes.Buffer{}
	if err := printFollowing(t.Context(), &out, c, ""); err != nil || out.Len() > 0 {
		t.Errorf("of none: %q, %v", out.String(), err)
	}
}
