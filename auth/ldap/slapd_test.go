package ldap_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/berth-registry/berth/auth/ldap"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

const (
	suffix    = "dc=example,dc=org"
	admin     = "cn=admin," + suffix
	service   = "cn=berth,ou=services," + suffix
	adminPass = "the administrator's"
	servePass = "the service's"
	alicePass = "pässword of alice"
)

// slapd is OpenLDAP's server with a directory of its own.
type slapd struct {
	t                *testing.T
	dir              string
	plain, tls, unix string // URLs
	ca               string // file
	stop             func(os.Signal) int
}

// start starts a server with an empty database of people and groups.
func start(t *testing.T) *slapd {
	t.Helper()
	dir := t.TempDir()
	s := &slapd{t: t, dir: dir, ca: filepath.Join(dir, "ca.pem")}
	s.plain, s.tls = "ldap://"+freeaddr.For(t), "ldaps://"+freeaddr.For(t)
	s.unix = "ldapi://" + url.QueryEscape(filepath.Join(dir, "socket"))
	certify(t, dir)
	s.write("slapd.conf", conf)
	s.write("tree.ldif", tree)
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	berthtest.NewCommand(t, "slapadd").Run("-f", filepath.Join(dir, "slapd.conf"), "-l", filepath.Join(dir, "tree.ldif"))
	s.start()
	return s
}

func (s *slapd) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(strings.ReplaceAll(text, "DIR", s.dir)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the server, again perhaps, and waits until it answers.
func (s *slapd) start() {
	s.t.Helper()
	s.stop = berthtest.NewCommand(s.t, "slapd").Service(func(string) error {
		c, err := goldap.DialURL(s.plain)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Bind(admin, adminPass)
	}, "-d", "0", "-h", s.plain+" "+s.tls+" "+s.unix, "-f", filepath.Join(s.dir, "slapd.conf"))
}

// signal sends the server a signal.
func (s *slapd) signal(sig syscall.Signal) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// admin is a connection of the administrator, to change the directory by.
func (s *slapd) admin() *goldap.Conn {
	s.t.Helper()
	c, err := goldap.DialURL(s.plain)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	if err := c.Bind(admin, adminPass); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// options are those that the tests change.
func (s *slapd) options() ldap.Options {
	return ldap.Options{
		URL: s.plain, BindDN: service, BindPassword: servePass,
		UserBase: "ou=people," + suffix, GroupBase: "ou=groups," + suffix,
	}
}

// source opens a source, which is closed with the test.
func source(t *testing.T, o ldap.Options) *ldap.Source {
	t.Helper()
	src, err := ldap.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.Close)
	return src
}

// certify writes an authority (ca.pem), a certificate of 127.0.0.1 by it
// (server.pem, server.key), and another authority (other.pem).
func certify(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(c, parent *x509.Certificate, k, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for _, name := range []string{"other", "ca"} {
		ca, caKey := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, key()
		write(name+".pem", "CERTIFICATE", sign(ca, ca, caKey, caKey))
		if name == "other" {
			continue
		}
		k := key()
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		write("server.key", "EC PRIVATE KEY", der)
		write("server.pem", "CERTIFICATE", sign(&x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "slapd"}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, ca, k, caKey))
	}
}

const conf = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile DIR/pid
argsfile DIR/args
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
TLSCACertificateFile DIR/ca.pem
TLSCertificateFile DIR/server.pem
TLSCertificateKeyFile DIR/server.key
database mdb
directory DIR/db
maxsize 16777216
suffix "` + suffix + `"
rootdn "` + admin + `"
rootpw "` + adminPass + `"
overlay ppolicy
ppolicy_default "cn=default,ou=policies,` + suffix + `"
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="ou=groups,` + suffix + `" by dn.exact="` + service + `" read by * none
access to * by dn.exact="` + service + `" read by anonymous read by * none
`

// somebody is an entry of the tree.
func somebody(uid, more string) string {
	return fmt.Sprintf("dn: uid=%s,ou=people,%s\nobjectClass: inetOrgPerson\nuid: %s\ncn: x\nsn: x\n%s\n\n", strings.ReplaceAll(uid, "*", `\2A`), suffix, uid, more)
}

func members(cn, attrs string) string {
	return fmt.Sprintf("dn: cn=%s,ou=groups,%s\ncn: %s\n%s\n\n", cn, suffix, cn, attrs)
}

var tree = `dn: ` + suffix + `
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,` + suffix + `
objectClass: organizationalUnit
ou: people

dn: ou=groups,` + suffix + `
objectClass: organizationalUnit
ou: groups

dn: ou=services,` + suffix + `
objectClass: organizationalUnit
ou: services

dn: ou=policies,` + suffix + `
objectClass: organizationalUnit
ou: policies

dn: cn=default,ou=policies,` + suffix + `
objectClass: applicationProcess
objectClass: pwdPolicy
cn: default
pwdAttribute: userPassword

dn: ` + service + `
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: berth
userPassword: ` + servePass + `

` +
	somebody("alice", "userPassword: "+alicePass+"\nmail: alice@example.org\n") +
	somebody("bob", "userPassword: bob's\nmail: shared@example.org") +
	somebody("carol", "mail: shared@example.org") + // without a password
	somebody("dora", "uid: dorothea\nuserPassword: dora's") + // with two names
	somebody("a*b(c)", "userPassword: star's") +
	somebody("jürgen", "userPassword: jürgen's") +
	members("dev", "objectClass: groupOfNames\nmember: uid=alice,ou=people,"+suffix+"\nmember: uid=bob,ou=people,"+suffix) +
	members("ops", "objectClass: groupOfUniqueNames\nuniqueMember: uid=alice,ou=people,"+suffix) +
	members("unix", "objectClass: posixGroup\ngidNumber: 1\nmemberUid: alice\nmemberUid: bob") +
	members("star", `objectClass: groupOfNames`+"\n"+`member: uid=a\2Ab(c),ou=people,`+suffix)
