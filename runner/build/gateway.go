package build

import (
	"net/netip"
	"strings"

	"github.com/moby/buildkit/worker/label"
)

const (
	// hostGateway, as the address of an extra host, means the host itself.
	hostGateway = "host-gateway"
	// gatewayLabel is where buildx looks for its address.
	gatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
)

// labelsOf are what clients are told of the worker.
func labelsOf(o Options) map[string]string {
	all := map[string]string{label.Executor: "oci", label.Snapshotter: snapshotterName}
	if len(o.Gateway) > 0 {
		all[gatewayLabel] = o.Gateway[0].String()
	}
	return all
}

// withGateway puts the host's addresses in the place of host-gateway. With none it
// stays, and is refused as no address.
func withGateway(hosts []string, gateway []netip.Addr) []string {
	if len(gateway) == 0 {
		return hosts
	}
	var all []string
	for _, h := range hosts {
		name, address, _ := strings.Cut(h, ":")
		if address != hostGateway {
			all = append(all, h)
			continue
		}
		for _, g := range gateway {
			all = append(all, name+":"+g.String())
		}
	}
	return all
}
