package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// parseIPAM makes out what is asked of a network's addresses. A family without a
// subnet is nil. It is a pure function.
func parseIPAM(driver string, asked *network.IPAM, want4, want6 bool) (v4, v6 *addressing, err error) {
	if !want4 && !want6 {
		return nil, nil, runner.Errorf(runner.ErrInvalid, "IPv4 or IPv6 must be enabled")
	}
	if asked == nil {
		return nil, nil, nil
	}
	if asked.Driver != "" && asked.Driver != "default" {
		return nil, nil, runner.Errorf(runner.ErrNotFound, "plugin %q not found", asked.Driver)
	}
	for name := range asked.Options {
		return nil, nil, runner.Errorf(runner.ErrInvalid, "unknown option %q of the IPAM driver default", name)
	}
	var wrong []string
	for _, c := range asked.Config {
		if !c.Subnet.IsValid() && !c.IPRange.IsValid() && !c.Gateway.IsValid() && len(c.AuxAddress) == 0 {
			continue // as if it were not there
		}
		list, one := checkIPAM(c)
		wrong = append(wrong, list...)
		family, wanted := &v4, want4
		if c.Subnet.Addr().Is6() {
			family, wanted = &v6, want6
		}
		if !wanted {
			continue // as in Docker
		}
		if *family != nil {
			return nil, nil, runner.Errorf(runner.ErrForbidden, "%s driver doesn't support multiple subnets", driver)
		}
		*family = one
	}
	if len(wrong) > 0 {
		return nil, nil, runner.Errorf(runner.ErrInvalid, "invalid network config:\n%s", strings.Join(wrong, "\n"))
	}
	return v4, v6, nil
}

// checkIPAM returns what is wrong with a subnet and what belongs to it, in Docker's
// words.
func checkIPAM(c network.IPAMConfig) (wrong []string, a *addressing) {
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !c.Subnet.IsValid() {
		report("invalid subnet: a subnet is needed for an ip-range, a gateway or an auxiliary address")
		return wrong, nil
	}
	subnet := c.Subnet
	if subnet != subnet.Masked() {
		report("invalid subnet %s: it should be %s", subnet, subnet.Masked())
	}
	if r := c.IPRange; r.IsValid() {
		switch {
		case r.Addr().Is4() != subnet.Addr().Is4():
			report("invalid ip-range %s: %v", r, familyOf(subnet))
		case r.Bits() < subnet.Bits():
			report("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, subnet)
		case r != r.Masked():
			report("invalid ip-range %s: it should be %s", r, r.Masked())
		case !subnet.Overlaps(r):
			report("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, subnet)
		}
	}
	if err := inSubnet(c.Gateway, subnet); err != nil {
		report("invalid gateway %s: %v", c.Gateway, err)
	}
	taken := map[netip.Addr]bool{c.Gateway: true}
	for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
		addr := c.AuxAddress[name]
		if err := inSubnet(addr, subnet); err != nil {
			report("invalid auxiliary address %s: %v", name, err)
		} else if taken[addr] {
			report("invalid auxiliary address %s: Address already in use", name)
		}
		taken[addr] = true
	}
	return wrong, &addressing{Subnet: subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: c.AuxAddress}
}

func familyOf(subnet netip.Prefix) error {
	if subnet.Addr().Is4() {
		return errors.New("parent subnet is an IPv4 block")
	}
	return errors.New("parent subnet is an IPv6 block")
}

// inSubnet says why an address, if there is one, is not of a subnet.
func inSubnet(addr netip.Addr, subnet netip.Prefix) error {
	switch {
	case !addr.IsValid():
		return nil
	case addr.Is4() != subnet.Addr().Is4():
		return familyOf(subnet)
	case !subnet.Contains(addr):
		return fmt.Errorf("parent subnet %s doesn't contain this address", subnet)
	}
	return nil
}

// firstFree returns the address that a gateway gets that was not asked for: the
// first of the subnet that has no other use.
func (a *addressing) firstFree() (netip.Addr, error) {
	return newPoolOf(addressing{Subnet: a.Subnet, Aux: a.Aux}).next(gatewayHolder)
}
