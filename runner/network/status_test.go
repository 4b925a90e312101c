package network

import (
	"math"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// The numbers of the first two are those of the API's documentation.
func TestPoolCount(t *testing.T) {
	for _, c := range []struct {
		subnet, rng, gateway string
		holders              int
		want                 network.SubnetStatus
	}{
		{"172.16.0.0/16", "", "172.16.0.1", 0, network.SubnetStatus{IPsInUse: 3, DynamicIPsAvailable: 65533}},
		{"2001:db8:abcd:12::/96", "", "2001:db8:abcd:12::1", 3, network.SubnetStatus{IPsInUse: 5, DynamicIPsAvailable: 4294967291}},
		{"10.0.0.0/24", "10.0.0.64/30", "10.0.0.1", 1, network.SubnetStatus{IPsInUse: 4, DynamicIPsAvailable: 3}},
		{"10.0.0.0/24", "10.0.0.64/30", "10.0.0.1", 4, network.SubnetStatus{IPsInUse: 7}},
		{"fd00::/64", "", "", 0, network.SubnetStatus{IPsInUse: 1, DynamicIPsAvailable: math.MaxUint64}},
		{"fd00::/64", "", "", 1, network.SubnetStatus{IPsInUse: 2, DynamicIPsAvailable: math.MaxUint64 - 1}},
		{"fd00::/48", "", "fd00::1", 1, network.SubnetStatus{IPsInUse: 3, DynamicIPsAvailable: math.MaxUint64}},
	} {
		a := addressing{Subnet: netip.MustParsePrefix(c.subnet)}
		if c.rng != "" {
			a.Range = netip.MustParsePrefix(c.rng)
		}
		if c.gateway != "" {
			a.Gateway = netip.MustParseAddr(c.gateway)
		}
		p := newPoolOf(a)
		for range c.holders {
			if _, err := p.next("box"); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.count(); got != c.want {
			t.Errorf("%s %s with %d: %+v, want %+v", c.subnet, c.rng, c.holders, got, c.want)
		}
	}
}

func TestCheckDefaultBridgeTakesNoAddress(t *testing.T) {
	m := openManager(t, Options{Subnet: netip.MustParsePrefix("10.97.0.0/24")})
	es := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.97.0.9")}}
	const want = "user specified IP address is supported on user defined networks only"
	if err := m.Check(network.NetworkBridge, es); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := m.Check(network.NetworkBridge, &network.EndpointSettings{}); err != nil {
		t.Error(err)
	}
	n, err := m.Inspect(t.Context(), network.NetworkBridge)
	if err != nil || n.Status == nil || n.Status.IPAM.Subnets[netip.MustParsePrefix("10.97.0.0/24")].IPsInUse != 3 {
		t.Errorf("%+v, %v", n.Status, err)
	}
}
