package engine

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"

	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/network"
)

// resolvConf is what a container's /etc/resolv.conf says at its start.
func (e *Engine) resolvConf(rec *runner.Container) []byte {
	host, hc := network.HostResolvConf(), rec.HostConfig
	switch {
	case hc.NetworkMode.IsHost():
		return network.ResolvConfOfHost(host, hc.DNS, hc.DNSSearch, hc.DNSOptions)
	case e.findsNames(rec):
		return network.ResolvConfOfNames(host, hc.DNSSearch, hc.DNSOptions)
	}
	return network.ResolvConf(host, hc.DNS, hc.DNSSearch, hc.DNSOptions)
}

// findsNames says whether a container that starts will be on a network on which
// containers find each other by name.
func (e *Engine) findsNames(rec *runner.Container) bool {
	if len(rec.Networks) == 0 { // it was taken out of all
		return network.UserDefined(e.firstNetwork(rec))
	}
	return anyUserDefined(rec.Networks)
}

func anyUserDefined(networks map[string]*apinetwork.EndpointSettings) bool {
	for name := range networks {
		if network.UserDefined(name) {
			return true
		}
	}
	return false
}

// fillHosts writes the container's /etc/hosts.
func (e *Engine) fillHosts(rec *runner.Container, files spec.Files, networks map[string]*apinetwork.EndpointSettings) error {
	hc := rec.HostConfig
	if hc.NetworkMode.IsContainer() {
		return nil // it is the other's
	}
	if hc.NetworkMode.IsHost() {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		content, err := network.HostsOfHost(own, hc.ExtraHosts, e.network.HostGateway()...)
		if err != nil {
			return err
		}
		return os.WriteFile(files.Hosts, content, 0o644) //nolint:gosec // every user of the container reads it
	}
	content, err := network.Hosts(rec.Config.Hostname, rec.Config.Domainname, addressesOf(networks), hc.ExtraHosts, e.network.HostGateway()...)
	if err != nil {
		return err
	}
	content = network.EditHosts(content, nil, e.linkedHosts(rec)...)
	return os.WriteFile(files.Hosts, content, 0o644) //nolint:gosec // as above
}

// addressesOf are those of the endpoints, in the order of their networks' names.
func addressesOf(networks map[string]*apinetwork.EndpointSettings) []netip.Addr {
	var ips []netip.Addr
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		for _, ip := range []netip.Addr{networks[name].IPAddress, networks[name].GlobalIPv6Address} {
			if ip.IsValid() {
				ips = append(ips, ip)
			}
		}
	}
	return ips
}

// followNetworks brings the files of a running container in line with its
// networks, which were others before. What the container has written into them
// stays.
func (e *Engine) followNetworks(c *ctr, before, after map[string]*apinetwork.EndpointSettings) error {
	rec, st := c.snapshot()
	files := e.filesOf(c.id)
	gone := map[netip.Addr]bool{}
	for _, ip := range addressesOf(before) {
		gone[ip] = true
	}
	var come []netip.Addr
	for _, ip := range addressesOf(after) {
		if gone[ip] {
			delete(gone, ip)
		} else {
			come = append(come, ip)
		}
	}
	var errs []error
	if len(gone)+len(come) > 0 {
		errs = append(errs, e.editHosts(files.Hosts, func(l network.HostsLine) bool { return gone[l.Addr] },
			network.OwnHosts(rec.Config.Hostname, rec.Config.Domainname, come)...))
	}
	if !anyUserDefined(before) && anyUserDefined(after) {
		// One that the container has changed stays as it is.
		info, err := os.Stat(files.ResolvConf)
		if err == nil && !info.ModTime().After(st.StartedAt) {
			err = writeInPlace(files.ResolvConf, e.resolvConf(rec))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// editHosts takes lines out of a running container's /etc/hosts and adds others.
func (e *Engine) editHosts(path string, drop func(network.HostsLine) bool, add ...network.HostsLine) error {
	e.hosts.Lock()
	defer e.hosts.Unlock()
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return writeInPlace(path, network.EditHosts(content, drop, add...))
}

// writeInPlace replaces the content of a file that is mounted into a container:
// another file in its place would not be seen there. Nobody finds it empty.
func writeInPlace(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	return errors.Join(err, f.Close())
}
