package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// The options of networks, as Docker names them.
const (
	optBridge      = "com.docker.network.bridge.name"
	optICC         = "com.docker.network.bridge.enable_icc"
	optMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	optInhibit     = "com.docker.network.bridge.inhibit_ipv4"
	optGateway4    = "com.docker.network.bridge.gateway_mode_ipv4"
	optGateway6    = "com.docker.network.bridge.gateway_mode_ipv6"
	optMTU         = "com.docker.network.driver.mtu"
	optPrefix      = "com.docker.network.container_iface_prefix"
	optIPv4        = "com.docker.network.enable_ipv4"
	optIPv6        = "com.docker.network.enable_ipv6"
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIPvlanMode  = "ipvlan_mode"
	optIPvlanFlag  = "ipvlan_flag"
)

// settings are the options of a network, made out.
type settings struct {
	bridge      string // the name asked for
	isolated    bool   // containers do not reach each other (icc=false)
	masquerade  bool
	hostBinding netip.Addr // of ports that are published at no certain address
	noAddress4  bool       // the bridge has no IPv4 address
	noAddress6  bool
	noGateway4  bool // and containers no gateway
	noGateway6  bool
	mtu         int // 0: the host's
	prefix      string
	parent      string
	mode        uint32 // of macvlan or ipvlan, as the kernel has it
	flag        uint16 // of ipvlan
	layer3      bool   // ipvlan without a gateway
}

// parseOptions makes the options of a network out. It is a pure function.
func parseOptions(driver string, internal bool, options map[string]string) (settings, error) {
	s := settings{masquerade: true, prefix: "eth"}
	switch driver {
	case driverMacvlan:
		s.mode = nl.MACVLAN_MODE_BRIDGE
	case driverIPvlan:
		s.mode = ipvlanL2
	}
	for name, value := range options {
		known, err := s.set(driver, name, value)
		if err == nil && !known {
			return s, runner.Errorf(runner.ErrInvalid, "unknown option %q of network driver %s", name, driver)
		}
		if err != nil {
			return s, runner.Errorf(runner.ErrInvalid, "failed to parse %s value: %q (%w)", name, value, err)
		}
	}
	if (s.noGateway4 || s.noGateway6) && !internal {
		return s, runner.Errorf(runner.ErrInvalid, "gateway mode 'isolated' can only be used for an internal network")
	}
	return s, nil
}

// set makes one option out. It returns false if the driver has no such option.
func (s *settings) set(driver, name, value string) (known bool, err error) {
	switch name {
	case optMTU:
		if s.mtu, err = strconv.Atoi(value); err == nil && (s.mtu < 68 || s.mtu > 65535) {
			err = fmt.Errorf("an MTU is from 68 to 65535")
		}
		return true, err
	case optPrefix:
		s.prefix = value
		return true, checkIfName(value + "0")
	case optIPv4, optIPv6:
		_, err = strconv.ParseBool(value) // Create heeds them
		return true, err
	}
	switch driver {
	case driverBridge:
		return s.setBridge(name, value)
	case driverMacvlan, driverIPvlan:
		return s.setVlan(driver, name, value)
	}
	return false, nil
}

func (s *settings) setBridge(name, value string) (known bool, err error) {
	switch name {
	case optBridge:
		s.bridge = value
		if value != "" {
			err = checkIfName(value)
		}
	case optICC:
		var icc bool
		icc, err = strconv.ParseBool(value)
		s.isolated = !icc
	case optMasquerade:
		s.masquerade, err = strconv.ParseBool(value)
	case optInhibit:
		s.noAddress4, err = strconv.ParseBool(value)
	case optHostBinding:
		if s.hostBinding, err = netip.ParseAddr(value); err == nil && !s.hostBinding.Is4() {
			err = fmt.Errorf("not an IPv4 address")
		}
		if err == nil && s.hostBinding.IsUnspecified() {
			s.hostBinding = netip.Addr{}
		}
	case optGateway4:
		s.noGateway4, err = gatewayMode(value)
		s.noAddress4 = s.noAddress4 || s.noGateway4
	case optGateway6:
		s.noGateway6, err = gatewayMode(value)
		s.noAddress6 = s.noGateway6
	default:
		return false, nil
	}
	return true, err
}

// gatewayMode says whether a mode is "isolated" rather than "nat". Others would
// let in what is not published.
func gatewayMode(value string) (isolated bool, err error) {
	switch value {
	case "", "nat":
		return false, nil
	case "isolated":
		return true, nil
	}
	return false, fmt.Errorf("the gateway modes are nat and isolated")
}

func (s *settings) setVlan(driver, name, value string) (known bool, err error) {
	pick := func(modes map[string]uint32) (uint32, error) {
		mode, ok := modes[value]
		if !ok {
			return 0, fmt.Errorf("requested %s mode '%s' is not valid, '%s' mode is the %s driver default",
				driver, value, map[string]string{driverMacvlan: "bridge", driverIPvlan: "l2"}[driver], driver)
		}
		return mode, nil
	}
	switch {
	case name == optParent:
		s.parent = value
		if value != "" {
			err = checkIfName(value)
		}
	case name == optMacvlanMode && driver == driverMacvlan:
		s.mode, err = pick(map[string]uint32{
			"": nl.MACVLAN_MODE_BRIDGE, "bridge": nl.MACVLAN_MODE_BRIDGE, "private": nl.MACVLAN_MODE_PRIVATE,
			"vepa": nl.MACVLAN_MODE_VEPA, "passthru": nl.MACVLAN_MODE_PASSTHRU,
		})
	case name == optIPvlanMode && driver == driverIPvlan:
		s.mode, err = pick(map[string]uint32{
			"": ipvlanL2, "l2": ipvlanL2, "l3": ipvlanL3, "l3s": ipvlanL3S,
		})
		s.layer3 = s.mode != ipvlanL2
	case name == optIPvlanFlag && driver == driverIPvlan:
		var flag uint32
		flag, err = pick(map[string]uint32{"": 0, "bridge": 0, "private": ipvlanPrivate, "vepa": ipvlanVEPA})
		s.flag = uint16(flag)
	default:
		return false, nil
	}
	return true, err
}

// checkIfName says what is wrong with a name for an interface.
func checkIfName(name string) error {
	const longest = unix.IFNAMSIZ - 1
	if name == "" || name == "." || name == ".." || len(name) > longest ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }) {
		return fmt.Errorf("not a name of an interface: up to %d characters, no spaces, '/', ':' or '%%'", longest)
	}
	return nil
}
