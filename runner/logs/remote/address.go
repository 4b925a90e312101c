package remote

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// isTransport says whether an address begins with a transport that Docker knows.
func isTransport(address string) bool {
	for _, scheme := range []string{"tcp://", "tcp+tls://", "udp://", "unix://", "unixgram://"} {
		if strings.HasPrefix(address, scheme) {
			return true
		}
	}
	return false
}

// withPort adds a port to a host that has none.
func withPort(host, port string) (string, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		if !strings.Contains(err.Error(), "missing port in address") {
			return "", err
		}
		return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
	}
	return host, nil
}

// syslogAddress takes an address apart; an empty one is the host's own socket.
func syslogAddress(address string) (network, addr string, err error) {
	if address == "" {
		return "", "", nil
	}
	if !isTransport(address) {
		return "", "", fmt.Errorf("syslog-address should be in form proto://address, got %v", address)
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", err
	}
	if u.Scheme == "unix" || u.Scheme == "unixgram" {
		return u.Scheme, u.Path, nil
	}
	addr, err = withPort(u.Host, "514")
	return u.Scheme, addr, err
}

// fluentdAddress takes an address apart; an empty one is the port on this host.
func fluentdAddress(address string) (network, addr string, err error) {
	given := address
	if !strings.Contains(address, "://") {
		address = "tcp://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", fmt.Errorf("invalid fluentd-address (%s): %w", given, err)
	}
	switch u.Scheme {
	case "unix":
		if strings.TrimLeft(u.Path, "/") == "" {
			return "", "", fmt.Errorf("invalid fluentd-address (%s): path is empty", given)
		}
		return u.Scheme, u.Path, nil
	case "tcp", "tls":
	default:
		return "", "", fmt.Errorf("invalid fluentd-address (%s): unsupported scheme: '%s'", given, u.Scheme)
	}
	if u.Path != "" {
		return "", "", fmt.Errorf("invalid fluentd-address (%s): should not contain a path element", given)
	}
	host := u.Host
	if u.Hostname() == "" {
		host = "127.0.0.1" + host
	}
	if addr, err = withPort(host, "24224"); err != nil {
		return "", "", fmt.Errorf("invalid fluentd-address (%s): %w", given, err)
	}
	return u.Scheme, addr, nil
}
