package gate

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/berth-registry/berth/auth"
)

// CertificateSource is Identity.Source of who signs in by a client certificate.
const CertificateSource = "certificate"

// maxAccount is the greatest length of an account's name in bytes, wherever it
// comes from.
const maxAccount = 256

// CertificateMapper returns how a client certificate says who somebody is. The
// account is its common name ("cn"), or the first of its subject's alternative
// names that is an e-mail address, a DNS name or a URI ("email", "dns", "uri");
// the groups are its organizational units ("ou"), its organizations ("o"), or
// none (""). A certificate without such an account says nothing.
func CertificateMapper(account, groups string) (func(*x509.Certificate) *auth.Identity, error) {
	var name func(*x509.Certificate) string
	switch account {
	case "cn":
		name = func(c *x509.Certificate) string { return c.Subject.CommonName }
	case "email":
		name = func(c *x509.Certificate) string { return first(c.EmailAddresses) }
	case "dns":
		name = func(c *x509.Certificate) string { return first(c.DNSNames) }
	case "uri":
		name = func(c *x509.Certificate) string {
			if len(c.URIs) == 0 {
				return ""
			}
			return c.URIs[0].String()
		}
	default:
		return nil, fmt.Errorf("account of a certificate is %q: want cn, email, dns or uri", account)
	}
	var in func(*x509.Certificate) []string
	switch groups {
	case "":
		in = func(*x509.Certificate) []string { return nil }
	case "ou":
		in = func(c *x509.Certificate) []string { return c.Subject.OrganizationalUnit }
	case "o":
		in = func(c *x509.Certificate) []string { return c.Subject.Organization }
	default:
		return nil, fmt.Errorf("groups of a certificate are %q: want ou, o or nothing", groups)
	}
	return func(c *x509.Certificate) *auth.Identity {
		account := name(c)
		if !soundName(account) {
			return nil
		}
		return &auth.Identity{Account: account, Groups: in(c), Source: CertificateSource}
	}, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// soundName says whether s could be the name of an account.
func soundName(s string) bool {
	return s != "" && len(s) <= maxAccount && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// certified returns whose the client's certificate is, or nil. It fails if the
// connection has outlived the certificate.
func (g *Gate) certified(r *http.Request) (*auth.Identity, error) {
	if g.o.Certificate == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil, nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if now := g.o.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return nil, errCertificate
	}
	return g.o.Certificate(leaf), nil
}
