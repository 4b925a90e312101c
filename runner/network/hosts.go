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
	return EditHosts(b.Bytes(), nil, OwnHosts(hostname, domainname, ips)...), nil
}

// HostsLine is an entry of /etc/hosts.
type HostsLine struct {
	Addr  netip.Addr
	Names []string
}

// HostsLines are the entries for names that have all these addresses.
func HostsLines(names []string, ips []netip.Addr) []HostsLine {
	var lines []HostsLine
	for _, ip := range ips {
		lines = append(lines, HostsLine{Addr: ip, Names: names})
	}
	return lines
}

// OwnHosts are the entries for a container's own name.
func OwnHosts(hostname, domainname string, ips []netip.Addr) []HostsLine {
	switch {
	case hostname == "":
		return nil
	case domainname == "":
		return HostsLines([]string{hostname}, ips)
	}
	return HostsLines([]string{hostname + "." + domainname, hostname}, ips)
}

// EditHosts returns the content of an /etc/hosts without the entries that are to
// be dropped and with others at its end. All else stays as it is. A nil drop drops
// nothing.
func EditHosts(content []byte, drop func(HostsLine) bool, add ...HostsLine) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(content) {
		if drop != nil {
			if l, ok := parseHostsLine(string(line)); ok && drop(l) {
				continue
			}
		}
		b.Write(line)
	}
	if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
		b.WriteByte('\n')
	}
	for _, l := range add {
		fmt.Fprintf(&b, "%s\t%s\n", l.Addr, strings.Join(l.Names, " "))
	}
	return b.Bytes()
}

func parseHostsLine(line string) (HostsLine, bool) {
	line, _, _ = strings.Cut(line, "#")
	f := strings.Fields(line)
	if len(f) < 2 {
		return HostsLine{}, false
	}
	addr, err := netip.ParseAddr(f[0])
	return HostsLine{Addr: addr, Names: f[1:]}, err == nil
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
