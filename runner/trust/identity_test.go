package trust

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	issuer = "https://token.example.com"
	signer = "release@acme.example.com"
)

// TestIdentities tries signatures by certificates.
func TestIdentities(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	const repository = "r.example.com/acme/app"
	d := digest.FromString("image")
	log, stamped := a.bundle(signer, issuer, statement(d, signPredicate), "log"), a.bundle(signer, issuer, statement(d, signPredicate), "time")
	onlyTime := a.root("time")
	for what, tt := range map[string]struct {
		bundle []byte
		root   string // empty: one with a log
		says   string // empty: it may run
	}{
		"in the log":                    {log, "", ""},
		"with a time stamp":             {stamped, onlyTime, ""},
		"with a time stamp, not in log": {stamped, "", "log"},
		"in a log that nobody trusts":   {log, onlyTime, "timestamp"},
		"nobody has seen it":            {a.bundle(signer, issuer, statement(d, signPredicate), ""), onlyTime, "timestamp"},
		"certificate in no log":         {log, a.root("log", "ct"), "signed certificate timestamp"},
		"another subject":               {a.bundle("mallory@evil.example.com", issuer, statement(d, signPredicate), "log"), "", "certificate identity"},
		"a subject that looks like it":  {a.bundle("a@acme.example.com.evil.org", issuer, statement(d, signPredicate), "log"), "", "certificate identity"},
		"another issuer":                {a.bundle(signer, "https://evil.example.com", statement(d, signPredicate), "log"), "", "certificate identity"},
		"another authority":             {other.bundle(signer, issuer, statement(d, signPredicate), "log"), "", "log"},
		"another authority, same log":   {other.bundle(signer, issuer, statement(d, signPredicate), "log"), mixed(t, a, other), "certificate"},
		"another image":                 {a.bundle(signer, issuer, statement(digest.FromString("other"), signPredicate), "log"), "", "digest"},
		"another statement":             {a.bundle(signer, issuer, statement(d, "https://cyclonedx.org/bom"), "log"), "", "statement of the type"},
		"no statement":                  {a.bundle(signer, issuer, []byte("{}"), "log"), "", "none is"},
	} {
		rule := Rule{Images: []string{"r.example.com/acme/**"}, Issuer: issuer, Subjects: []string{"nobody@example.com", "*@acme.example.com"}, Root: tt.root}
		if rule.Root == "" {
			rule.Root = a.root("log")
		}
		s := newShelf(t)
		s.refer(tt.bundle)
		_, err := policy(t, rule).Decide(t.Context(), imageOf(repository, d), s.sources())
		checkSays(t, what, err, tt.says)
	}
	s := newShelf(t)
	s.refer(log)
	_, err := policy(t, Rule{Images: []string{"**"}, Keys: []string{newKey(t)}}).Decide(t.Context(), imageOf(repository, d), s.sources())
	checkSays(t, "a certificate in place of a key", err, "certificate")
}

// mixed is a trusted root that has the authority of one, and the log of another.
func mixed(t *testing.T, a, log *authority) string {
	t.Helper()
	both := *a
	both.log = log.log
	return both.root("log")
}

// TestOlderForm tries signatures in the form that cosign had before bundles, by
// certificates.
func TestOlderForm(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	const repository = "r.example.com/acme/app"
	d := digest.FromString("image")
	rule := Rule{Images: []string{"r.example.com/acme/**"}, Issuer: issuer, Subjects: []string{signer}, Root: a.root("log", "time")}
	payload := simplePayload(repository, d)
	foreign, other := simplePayload("r.example.com/other/app", d), simplePayload(repository, digest.FromString("other"))
	for what, tt := range map[string]struct {
		payload []byte
		signed  []byte
		change  func(map[string]string)
		says    string
	}{
		"signed":                  {payload, payload, nil, ""},
		"for a repository beside": {simplePayload("r.example.com/acme/copy", d), simplePayload("r.example.com/acme/copy", d), nil, ""},
		"for another repository":  {foreign, foreign, nil, "for the repository r.example.com/other/app"},
		"of another image":        {other, other, nil, "it is a signature of sha256:"},
		"other bytes":             {foreign, payload, nil, "none is"},
		"no log":                  {payload, payload, func(a map[string]string) { delete(a, logAnnotation) }, "log"},
		"no certificate":          {payload, payload, func(a map[string]string) { delete(a, certificateAnnotation) }, "none is"},
		"no signature":            {payload, payload, func(a map[string]string) { delete(a, signatureAnnotation) }, "no signature"},
		"a broken log":            {payload, payload, func(a map[string]string) { a[logAnnotation] = `{"Payload":{"logID":"x"}}` }, "transparency log"},
		"a broken time":           {payload, payload, func(a map[string]string) { a[timeAnnotation] = `{` }, "timestamp"},
		"a broken certificate":    {payload, payload, func(a map[string]string) { a[certificateAnnotation] = "x" }, "PEM"},
		"an empty payload":        {nil, payload, nil, "none is"},
		"no payload":              {[]byte("[]"), []byte("[]"), nil, "none is"},
		"of another kind":         {[]byte("{}"), []byte("{}"), nil, "of the type"},
	} {
		annotations := a.simple(signer, issuer, tt.signed)
		if tt.change != nil {
			tt.change(annotations)
		}
		s := newShelf(t)
		s.attach(d, tt.payload, annotations)
		_, err := policy(t, rule).Decide(t.Context(), imageOf(repository, d), s.sources())
		checkSays(t, what, err, tt.says)
	}
}

// checkSays checks that an image may run if says is empty, and otherwise why not.
func checkSays(t *testing.T, what string, err error, says string) {
	t.Helper()
	if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: error %v, want %q", what, err, says)
	}
}
