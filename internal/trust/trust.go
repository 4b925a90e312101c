// Package trust says whom the registry believes at the other end of connections
// that it makes: to directories, identity providers, token servers, webhooks.
package trust

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// Authorities reads a file of certificates in PEM, which sign those of a server in
// place of the system's authorities. Without a file it is nil: the system's.
func Authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // what tls.Config takes for the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: found no certificate in PEM", file)
	}
	return pool, nil
}

// IsLoopback says whether a host is this one, to which secrets may go without TLS. A
// name that merely resolves to it could resolve to another tomorrow.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
