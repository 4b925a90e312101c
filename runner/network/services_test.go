package network

import (
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// behind makes a service of containers with equal weights.
func behind(name string, asked network.PortMap, boxes ...*box) runner.Service {
	s := runner.Service{Name: name, Ports: asked}
	for _, b := range boxes {
		s.Backends = append(s.Backends, runner.Backend{Container: b.ContainerID, Weight: 1})
	}
	return s
}

func setServices(t testing.TB, m *Manager, list ...runner.Service) map[string]network.PortMap {
	t.Helper()
	given, err := m.SetServices("stack/test", list)
	must(t, err)
	return given
}

func TestServiceIsReached(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	t.Cleanup(func() { setServices(t, m) })
	blue, green := connect(t, m, "blue", nil, 80), connect(t, m, "green", nil, 80)
	everywhere := func(want string) {
		t.Helper()
		check(t, []reach{
			{"outside", w.outside, "", hostAddr4 + ":8080", want},
			{"outside", w.outside, "", "[" + hostAddr6 + "]:8080", want},
			{"host", nil, "", "127.0.0.1:8080", want},
			{"host", nil, "", "[::1]:8080", want},
			{"itself", blue.ns, "", hostAddr4 + ":8080", want},
		})
	}
	setServices(t, m, behind("web", ports(t, "8080>80/tcp"), blue))
	everywhere("blue")
	setServices(t, m, behind("web", ports(t, "8080>80/tcp"), green))
	everywhere("green")
	t.Log(nft(t, "list", "table", "inet", m.rules.name))
	must(t, m.Disconnect(t.Context(), green.ContainerID))
	everywhere("")
}
