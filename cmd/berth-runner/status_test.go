package main

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/deploy"
)

// TestPrintStatus has the reason in sight why a stack is not in service, or cannot be
// used.
func TestPrintStatus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status deploy.Status
		state  string
		want   string
	}{
		"never in service": {
			deploy.Status{Name: "shop", Services: []deploy.ServiceStatus{{Name: "web", Image: "web:1", Replicas: 2}}, Drift: []string{"revision 1: failed: it ended"}},
			"not in service", `shop: no revision is in service

SERVICE  IMAGE  STRATEGY  READY  PORTS  REVISION
web      web:1  -         0/2    -      -

not as it should be: revision 1: failed: it ended
`,
		},
		"cannot be used": {
			deploy.Status{Name: "shop", Revision: 2, Error: "a file cannot be read:\x1b do this", Services: []deploy.ServiceStatus{{
				Name: "web", Replicas: 1, Ready: 1, Ports: network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "8080"}}},
				Containers: []deploy.ContainerStatus{{Name: "shop-web-r2-1", Revision: 2, State: "running", Weight: 1}},
			}}},
			"cannot be used", `shop: cannot be used

SERVICE  IMAGE  STRATEGY  READY  PORTS         REVISION
web      -      -         1/1    8080->80/tcp  2

a file cannot be read:? do this
`,
		},
	} {
		var b strings.Builder
		if err := printStatus(&b, test.status, false); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); got != test.want {
			t.Errorf("%s: got\n%swant\n%s", name, got, test.want)
		}
		if got := stateOf(test.status); got != test.state {
			t.Errorf("%s: the state is %q, want %q", name, got, test.state)
		}
	}
}
