package ldap_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/auth/ldap"
)

func TestOptions(t *testing.T) {
	good := ldap.Options{URL: "ldaps://ldap.example.org", UserBase: suffix}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("-----BEGIN NOTHING-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*ldap.Options)
		want   string // of the error; empty for none
	}{
		{"Good", func(*ldap.Options) {}, ""},
		{"Port", func(o *ldap.Options) { o.URL = "ldaps://[2001:db8::1]:6360/" }, ""},
		{"StartTLS", func(o *ldap.Options) { o.URL, o.StartTLS = "ldap://ldap.example.org", true }, ""},
		{"Loopback", func(o *ldap.Options) { o.URL = "ldap://127.0.0.2:389" }, ""},
		{"Loopback6", func(o *ldap.Options) { o.URL = "ldap://[::1]" }, ""},
		{"Localhost", func(o *ldap.Options) { o.URL = "ldap://localhost" }, ""},
		{"Socket", func(o *ldap.Options) { o.URL = "ldapi:///run/slapd/ldapi" }, ""},
		{"SocketEscaped", func(o *ldap.Options) { o.URL = "ldapi://%2Frun%2Fslapd%2Fldapi" }, ""},
		{"Plain", func(o *ldap.Options) { o.URL = "ldap://ldap.example.org" }, "for everybody to read"},
		{"PlainAddress", func(o *ldap.Options) { o.URL = "ldap://192.0.2.1" }, "for everybody to read"},
		{"PlainLookalike", func(o *ldap.Options) { o.URL = "ldap://localhost.example.org" }, "for everybody to read"},
		{"PlainLookalikeAddress", func(o *ldap.Options) { o.URL = "ldap://127.0.0.1.example.org" }, "for everybody to read"},
		{"PlainInsecure", func(o *ldap.Options) { o.URL, o.Insecure = "ldap://ldap.example.org", true }, ""},
		{"NoURL", func(o *ldap.Options) { o.URL = "" }, "invalid URL"},
		{"Scheme", func(o *ldap.Options) { o.URL = "https://ldap.example.org" }, "invalid URL"},
		{"NoHost", func(o *ldap.Options) { o.URL = "ldaps:///x" }, "invalid URL"},
		{"User", func(o *ldap.Options) { o.URL = "ldaps://me:secret@ldap.example.org" }, "invalid URL"},
		{"Query", func(o *ldap.Options) { o.URL = "ldaps://ldap.example.org/?uid" }, "invalid URL"},
		{"Base", func(o *ldap.Options) { o.URL = "ldaps://ldap.example.org/dc=example" }, "invalid URL"},
		{"SocketNoPath", func(o *ldap.Options) { o.URL = "ldapi://" }, "path of a socket"},
		{"SocketTLS", func(o *ldap.Options) { o.URL, o.StartTLS = "ldapi:///x", true }, "no TLS"},
		{"TLSTwice", func(o *ldap.Options) { o.StartTLS = true }, "want no StartTLS"},
		{"UselessCA", func(o *ldap.Options) { o.URL, o.CA = "ldap://localhost", empty }, "a CA without TLS"},
		{"EmptyCA", func(o *ldap.Options) { o.CA = empty }, "no certificate"},
		{"NoCA", func(o *ldap.Options) { o.CA = empty + ".not" }, "no such file"},
		{"NoBase", func(o *ldap.Options) { o.UserBase = "" }, "want the DN"},
		{"NoDN", func(o *ldap.Options) { o.UserBase = "people" }, "no DN"},
		{"NoPassword", func(o *ldap.Options) { o.BindDN = service }, "or neither"},
		{"NoBindDN", func(o *ldap.Options) { o.BindPassword = "secret" }, "or neither"},
		{"FilterFixed", func(o *ldap.Options) { o.UserFilter = "(uid=*)" }, "same account"},
		{"FilterOpen", func(o *ldap.Options) { o.UserFilter = "(uid=%s" }, "invalid filter"},
		{"GroupFilterFixed", func(o *ldap.Options) { o.GroupFilter = "(cn=*)" }, "same groups"},
		{"GroupFilterOpen", func(o *ldap.Options) { o.GroupFilter = "member=%s)(" }, "invalid filter"},
		{"Timeout", func(o *ldap.Options) { o.Timeout = -1 }, "timeout"},
	} {
		o := good
		tt.change(&o)
		_, err := ldap.New(o)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %q tells a password", tt.name, err)
		}
	}
}
