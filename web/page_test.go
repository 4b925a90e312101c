package web

import (
	"strings"
	"testing"
	"time"
)

func TestLoginName(t *testing.T) {
	for account, want := range map[string]string{
		"alice": "alice", "google/alice+x@example.com": "google/alice+x@example.com", "ci/repo:acme/web": "token",
		"idp/auth0|7": "'idp/auth0|7'", "it's": `'it'\''s'`, "-u": "'-u'", "a b": "'a b'", "$(id)": "'$(id)'",
	} {
		if got := loginName(account); got != want {
			t.Errorf("loginName(%q) is %s, want %s", account, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 seconds", time.Millisecond: "1 second", 90 * time.Second: "90 seconds", 91 * time.Second: "2 minutes", time.Hour: "60 minutes",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) is %s, want %s", d, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	if got := short("a\x00b\u202e\xffc" + strings.Repeat("é", 500)); len([]rune(got)) != maxShort+1 || !strings.HasPrefix(got, "a b cé") {
		t.Errorf("short is %q", got)
	}
}
