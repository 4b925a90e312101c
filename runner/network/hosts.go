package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/berth-registry/berth/runner"
)

// hostGateway, as the address of an extra host, means the host itself.
const hostGateway = "host-gateway"

const hostsHead = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Hosts returns the content of a container's /etc/hosts: the local names, the
// extra hosts ("name:address", where the address may be host-gateway, which
// stands for the given gateways), and the container's own name for each of its
// addresses.
func Hosts(hostname, domainname string, ips []netip.Addr, extra []string, gateway ...netip.Addr) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(hostsHead)
	if err := writeExtra(&b, extra, gateway); err != nil {
		return nil, err
	}
	names := hostname
	if domainname != "" {
		names = hostname + "." + domainname + " " + hostname
	}
	if hostname != "" {
		for _, ip := range ips {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	return b.Bytes(), nil
}

// HostsOfHost returns the content of /etc/hosts for a container in the host's
// network: the host's own with the extra hosts.
func HostsOfHost(host []byte, extra []string, gateway ...netip.Addr) ([]byte, error) {
	b := bytes.NewBuffer(bytes.Clone(host))
	if len(host) > 0 && !bytes.HasSuffix(host, []byte("\n")) {
		b.WriteByte('\n')
	}
	if err := writeExtra(b, extra, gateway); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeExtra(b *bytes.Buffer, extra []string, gateway []netip.Addr) error {
	for _, e := range extra {
		name, value, ok := strings.Cut(e, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n#") {
			return runner.Errorf(runner.ErrInvalid, "bad format for add-host: %q", e)
		}
		if value == hostGateway {
			if len(gateway) == 0 {
				return runner.Errorf(runner.ErrInvalid, "unable to derive the IP value for host-gateway")
			}
			for _, g := range gateway {
				fmt.Fprintf(b, "%s\t%s\n", g, name)
			}
			continue
		}
		ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(value, "["), "]"))
		if err != nil {
			return runner.Errorf(runner.ErrInvalid, "invalid IP address in add-host: %q", value)
		}
		fmt.Fprintf(b, "%s\t%s\n", ip, name)
	}
	return nil
}
