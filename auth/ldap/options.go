package ldap

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/berth-registry/berth/internal/trust"
)

// Options are where a directory is and how it is laid out. URL and UserBase must
// be set.
type Options struct {
	// URL is ldap://HOST[:PORT], ldaps://HOST[:PORT], or ldapi:// with the path of
	// a socket, as a path or with its slashes written %2F.
	URL string
	// StartTLS makes a connection to an ldap:// URL one over TLS before anything
	// else is sent.
	StartTLS bool
	// CA is a file of certificates in PEM that the server's must be signed by, for
	// StartTLS and ldaps; empty for those that the system trusts.
	CA string
	// Insecure allows ldap:// without StartTLS to another host: passwords can be
	// read on the way.
	Insecure bool
	// BindDN and BindPassword are those of the account that searches; empty to
	// search as nobody.
	BindDN       string
	BindPassword string
	// UserBase is the DN below which accounts are.
	UserBase string
	// UserFilter finds an account: "%s" is its name as somebody typed it. Who must
	// not log in it can leave out; a login as well as a refresh then fails. Empty
	// for AccountAttr=%s.
	UserFilter string
	// AccountAttr is the attribute that has the account's name as policy knows it;
	// empty for uid.
	AccountAttr string
	// GroupBase is the DN below which groups are; empty if nobody is in any.
	GroupBase string
	// GroupFilter finds the groups of an account: "%s" is the DN of its entry, "%u"
	// its name. Empty for those that have the DN as member or uniqueMember.
	GroupFilter string
	// GroupAttr is the attribute that has a group's name as policy knows it; empty
	// for cn.
	GroupAttr string
	// Timeout is how long a login may take, all in all; 10 seconds if it is 0.
	Timeout time.Duration
}

// complete checks the options, fills in what is left out, and says how to connect.
func (o Options) complete() (Options, *dialer, error) {
	if o.AccountAttr == "" {
		o.AccountAttr = "uid"
	}
	if o.UserFilter == "" {
		o.UserFilter = "(" + o.AccountAttr + "=%s)"
	}
	if o.GroupFilter == "" {
		o.GroupFilter = "(|(member=%s)(uniqueMember=%s))"
	}
	if o.GroupAttr == "" {
		o.GroupAttr = "cn"
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if err := o.check(); err != nil {
		return o, nil, err
	}
	d, err := o.dialer()
	return o, d, err
}

func (o *Options) check() error {
	for _, dn := range []struct{ what, dn string }{{"the base of accounts", o.UserBase}, {"the base of groups", o.GroupBase}, {"the DN to bind as", o.BindDN}} {
		if _, err := ldap.ParseDN(dn.dn); err != nil {
			return fmt.Errorf("%s is no DN: %q", dn.what, dn.dn)
		}
	}
	for _, f := range []string{o.UserFilter, o.GroupFilter} {
		if _, err := ldap.CompileFilter(strings.NewReplacer("%s", "x", "%u", "x").Replace(f)); err != nil {
			return fmt.Errorf("invalid filter %q: %w", f, err)
		}
	}
	switch {
	case o.UserBase == "":
		return errors.New("want the DN below which accounts are")
	case !strings.Contains(o.UserFilter, "%s"):
		return fmt.Errorf("filter %q finds the same account for every name: want %%s for the name in it", o.UserFilter)
	case !strings.Contains(o.GroupFilter, "%s") && !strings.Contains(o.GroupFilter, "%u"):
		return fmt.Errorf("filter %q finds the same groups for every account: want %%s for its DN or %%u for its name in it", o.GroupFilter)
	case (o.BindDN == "") != (o.BindPassword == ""):
		// A DN without a password is a bind as nobody that looks like one as the
		// DN: RFC 4513, section 5.1.2.
		return errors.New("want both a DN to bind as and its password, or neither")
	case o.Timeout < 0:
		return fmt.Errorf("want a timeout above 0, not %v", o.Timeout)
	}
	return nil
}

// dialer reads the URL.
func (o *Options) dialer() (*dialer, error) {
	d := &dialer{startTLS: o.StartTLS}
	if path, ok := strings.CutPrefix(o.URL, "ldapi://"); ok {
		path, err := url.PathUnescape(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("URL %q: want ldapi:// and the path of a socket", o.URL)
		}
		if o.StartTLS || o.CA != "" {
			return nil, errors.New("there is no TLS on the socket of an ldapi:// URL: want neither StartTLS nor a CA")
		}
		d.network, d.addr = "unix", path
		return d, nil
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("invalid URL: want ldap://HOST, ldaps://HOST, either with :PORT, or ldapi:// and the path of a socket; it may hold a password, and is not shown")
	}
	port := u.Port()
	switch {
	case u.Scheme == "ldaps" && o.StartTLS:
		return nil, errors.New("an ldaps:// URL is one over TLS already: want no StartTLS")
	case u.Scheme == "ldap" && !o.StartTLS && o.CA != "":
		return nil, errors.New("a CA without TLS: want StartTLS, or an ldaps:// URL")
	case u.Scheme == "ldap" && !o.StartTLS && !o.Insecure && !trust.IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("passwords would go to %s for everybody to read: want StartTLS or an ldaps:// URL", u.Hostname())
	case port == "" && u.Scheme == "ldaps":
		port = ldap.DefaultLdapsPort
	case port == "":
		port = ldap.DefaultLdapPort
	}
	d.network, d.addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "ldaps" || o.StartTLS {
		d.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		d.tls.RootCAs, err = trust.Authorities(o.CA)
	}
	return d, err
}
