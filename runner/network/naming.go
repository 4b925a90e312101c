package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner/network/names"
)

// UserDefined says whether a user made the network of that name: there, containers
// find each other by name.
func UserDefined(name string) bool { return name != network.NetworkDefault && !predefined(name) }

// named says whether one of the networks is a user's, so that a container in it
// has questions answered.
func named(list []wanted) bool {
	return slices.ContainsFunc(list, func(w wanted) bool { return w.lan.userDefined() })
}

// upstreams returns the servers that are asked what is no container's name: those
// that the container was given, as they are reached from there, or else the
// host's, as they are now. Those on the host's loopback serve, too.
func (m *Manager) upstreams(containerID string) []names.Upstream {
	m.mu.Lock()
	var given []netip.Addr
	if a := m.attached[containerID]; a != nil {
		given = a.dns
	}
	m.mu.Unlock()
	inside := len(given) > 0
	if !inside {
		content, _ := os.ReadFile(resolvConf) // none: there is nobody to ask
		for _, s := range parseResolvConf(content, false).servers {
			if addr, err := netip.ParseAddr(s); err == nil {
				given = append(given, addr)
			}
		}
	}
	const most = 3 // as of the C library
	const port = 53
	var list []names.Upstream
	for _, addr := range given[:min(most, len(given))] {
		list = append(list, names.Upstream{Addr: netip.AddrPortFrom(addr, port), Inside: inside})
	}
	return list
}

// serveAdopted has the questions of the containers answered that an earlier
// daemon has connected. Those of whom that fails are logged.
func (m *Manager) serveAdopted(ctx context.Context, alive []Attached) {
	const atOnce = 8
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, at := range alive {
		if at.NetNS == "" || !m.adoptedNamed(at.ContainerID) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := m.serveAt(ctx, at.ContainerID, at.NetNS); err != nil {
				m.log.WarnContext(ctx, "names are not served to a running container", "container", at.Name, "error", err)
			}
		})
	}
	wg.Wait()
}

func (m *Manager) adoptedNamed(containerID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.attached[containerID]
	return a != nil && slices.ContainsFunc(a.endpoints, func(ep *endpoint) bool { return ep.lan.userDefined() })
}

func (m *Manager) serveAt(ctx context.Context, containerID, path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	// A container that has just ended may have left its process's number to one
	// of the host.
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if there, err := ns.Stat(); err != nil || os.SameFile(own, there) {
		return errors.Join(err, errors.New("its namespace is gone"))
	}
	return m.names.Serve(ctx, containerID, ns)
}
