// Package ldap knows the accounts of a directory: somebody is who an entry there is,
// if the directory lets the entry bind with the password, and is in the groups that
// have the entry as a member.
//
// It promises that a password goes to the server only over TLS, a socket of this
// host or its loopback interface, unless the options say otherwise; that no name or
// password changes what is searched for; and that an empty password, which servers
// take for a successful bind as nobody (RFC 4513, section 5.1.2), never gets there.
// A group that could not be read is a login that fails, not one with fewer groups.
//
// A number of connections is kept for searches and binds alike. Every use begins
// with a bind of the service's own, so that none acts as somebody who logged in
// before, and one that has broken is replaced.
//
// It does not follow referrals or aliases, and caches nothing but connections.
package ldap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/berth-registry/berth/auth"
)

// Name is the name of a Source as an auth.Source.
const Name = "ldap"

// Longer names and passwords than these, in bytes, nobody has.
const (
	maxAccount  = 256
	maxPassword = 1024
)

// maxGroups is how many groups somebody can be in. It is an error if there are
// more: a policy may refuse members of one that was left out.
const maxGroups = 10000

// Source is a directory. Its methods may be called concurrently.
type Source struct {
	o    Options
	pool pool
}

var (
	_ auth.Source    = (*Source)(nil)
	_ auth.Refresher = (*Source)(nil)
)

// New checks the options and makes a source of them. It does not connect: the
// directory may be away for a while.
func New(o Options) (*Source, error) {
	o, d, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &Source{o: o}
	s.pool = pool{dial: d, places: make(chan struct{}, connections), prepare: s.bindService}
	return s, nil
}

// Close closes connections that are not in use. The source must not be used
// afterwards.
func (s *Source) Close() { s.pool.close() }

// Name implements auth.Source.
func (s *Source) Name() string { return Name }

// Current implements auth.Source: what the directory would say it cannot know
// without asking, so that it holds what Login or Refresh have said.
func (s *Source) Current(id *auth.Identity) bool { return id.Source == Name }

// Login implements auth.Source. A directory that cannot be asked, or in which
// several entries or none have the account's name for good, is a failure.
func (s *Source) Login(ctx context.Context, account, password string) (*auth.Identity, error) {
	switch {
	case !sound(account):
		return nil, auth.ErrUnknown
	case password == "" || len(password) > maxPassword || strings.ContainsRune(password, 0):
		return nil, auth.ErrWrong // a server that thinks in C ends a password at its NUL
	}
	return s.use(ctx, "login", func(c *ldap.Conn) (*auth.Identity, error) {
		p, err := s.find(c, account)
		if err != nil {
			return nil, err
		}
		if err := bindAs(c, p.dn, password); err != nil {
			return nil, err
		}
		if err := s.bindService(c); err != nil {
			return nil, err
		}
		return s.identity(c, p)
	})
}

// Refresh implements auth.Refresher. An entry of the same name that is another, or
// whose password has changed as far as the directory tells, is not the account's
// any more; but of who signed in with an API key, which is no password of the
// directory, nothing else is known than the name.
func (s *Source) Refresh(ctx context.Context, id *auth.Identity) (*auth.Identity, error) {
	if !sound(id.Account) || id.Source != Name {
		return nil, auth.ErrUnknown
	}
	return s.use(ctx, "lookup", func(c *ldap.Conn) (*auth.Identity, error) {
		p, err := s.find(c, id.Account)
		switch {
		case err != nil:
			return nil, err
		case p.account != id.Account || id.Key == "" && p.epoch != id.Epoch:
			return nil, auth.ErrUnknown
		}
		return s.identity(c, p)
	})
}

func (s *Source) use(ctx context.Context, what string, fn func(*ldap.Conn) (*auth.Identity, error)) (id *auth.Identity, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	err = s.pool.use(ctx, func(c *ldap.Conn) error {
		id, err = fn(c)
		return err
	})
	switch {
	case err == nil:
		return id, nil
	case settled(err):
		return nil, err
	case ctx.Err() != nil:
		return nil, fmt.Errorf("LDAP %s: %w", what, errors.Join(ctx.Err(), err))
	}
	return nil, fmt.Errorf("LDAP %s: %w", what, err)
}

// settled says that an error is the directory's answer.
func settled(err error) bool { return errors.Is(err, auth.ErrUnknown) || errors.Is(err, auth.ErrWrong) }

// sound says whether s can be an account's name.
func sound(s string) bool {
	return s != "" && len(s) <= maxAccount && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// person is an entry of the directory.
type person struct {
	dn, account, epoch string
}

// Attributes by which an entry is known to be the same, and its password too:
// those of RFC 4530, of OpenLDAP's password policy, and of Active Directory.
var epochAttrs = []string{"entryUUID", "pwdChangedTime", "objectGUID", "pwdLastSet"}

// find looks for the one entry that an account's name is of.
func (s *Source) find(c *ldap.Conn, account string) (person, error) {
	filter := strings.ReplaceAll(s.o.UserFilter, "%s", ldap.EscapeFilter(account))
	attrs := append([]string{s.o.AccountAttr}, epochAttrs...)
	entries, err := search(c, s.o.UserBase, filter, 2, attrs)
	switch {
	case err != nil:
		return person{}, fmt.Errorf("search for the account: %w", err)
	case len(entries) == 0:
		return person{}, auth.ErrUnknown
	case len(entries) > 1:
		return person{}, fmt.Errorf("several entries match the account: %q and %q", entries[0].DN, entries[1].DN)
	}
	e := entries[0]
	names := e.GetEqualFoldAttributeValues(s.o.AccountAttr)
	if len(names) != 1 || !sound(names[0]) {
		return person{}, fmt.Errorf("entry %q has %d values of %s: want one, that can be an account's name", e.DN, len(names), s.o.AccountAttr)
	}
	return person{dn: e.DN, account: names[0], epoch: epoch(e)}, nil
}

func epoch(e *ldap.Entry) string {
	h := sha256.New()
	for _, attr := range epochAttrs {
		for _, v := range e.GetEqualFoldAttributeValues(attr) {
			fmt.Fprintf(h, "%s=%q\n", attr, v)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// identity is who an entry is, with its groups.
func (s *Source) identity(c *ldap.Conn, p person) (*auth.Identity, error) {
	id := &auth.Identity{Account: p.account, Source: Name, Epoch: p.epoch}
	if s.o.GroupBase == "" {
		return id, nil
	}
	filter := strings.NewReplacer("%s", ldap.EscapeFilter(p.dn), "%u", ldap.EscapeFilter(p.account)).Replace(s.o.GroupFilter)
	entries, err := search(c, s.o.GroupBase, filter, maxGroups, []string{s.o.GroupAttr})
	if err != nil {
		return nil, fmt.Errorf("search for the account's groups: %w", err)
	}
	for _, e := range entries {
		id.Groups = append(id.Groups, e.GetEqualFoldAttributeValues(s.o.GroupAttr)...)
	}
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	return id, nil
}

// search returns the entries below base that a filter matches, or fails if there
// are more than most.
func search(c *ldap.Conn, base, filter string, most int, attrs []string) ([]*ldap.Entry, error) {
	req := ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, most, 0, false, filter, attrs, nil)
	res, err := c.Search(req)
	if err != nil {
		return nil, err
	}
	return res.Entries, nil
}

// bindService makes a connection the service's own.
func (s *Source) bindService(c *ldap.Conn) (err error) {
	if s.o.BindDN == "" {
		err = c.UnauthenticatedBind("") // an anonymous bind: RFC 4513, section 5.1.1
	} else {
		err = c.Bind(s.o.BindDN, s.o.BindPassword)
	}
	if err != nil {
		return fmt.Errorf("bind as the service: %w", err)
	}
	return nil
}

// bindAs fails with auth.ErrWrong unless a password is an entry's.
func bindAs(c *ldap.Conn, dn, password string) error {
	err := c.Bind(dn, password)
	switch {
	case err == nil:
		return nil
	case ldap.IsErrorAnyOf(err,
		ldap.LDAPResultInvalidCredentials,
		ldap.LDAPResultInappropriateAuthentication, // it has no password
		ldap.LDAPResultInsufficientAccessRights,
		ldap.LDAPResultUnwillingToPerform, // it is locked, or must change its password
		ldap.LDAPResultConstraintViolation):
		return auth.ErrWrong
	}
	return fmt.Errorf("bind as %q: %w", dn, err)
}

// defaultTimeout is Options.Timeout if that is not set.
const defaultTimeout = 10 * time.Second
