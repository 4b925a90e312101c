package config

import (
	"strings"
	"testing"
)

// FuzzLoad checks that no file makes the decoder panic, that each problem names
// the file in a line of its own, and that what is accepted is possible.
func FuzzLoad(f *testing.F) {
	f.Add(string(Example()))
	for _, text := range []string{
		"", "~", "{}", "---\n...\n---\n", "http: {addr: ':80'}", "http:\n  adr: 1\nhttp: 2\n", "log: &a {level: *a}", "? [a]\n: b",
		"log: {<<: {level: info}}", "log: {level: !!int info, access: !!bool x, format: !!binary YXV0bw==}", "storage: {data: \"\\0\"}",
		"'a\n\nb': 1", "\xff\xfe", "\xef\xbb\xbfhttp: {}", "%YAML 1.1\n---\nlog: {access: yes}", "http: |\n  addr", "[[[[", "http: {addr: 0x10}",
		"log: {level: 2001-01-01}", "storage: {upload_expiry: 1e3s}", "storage: {upload_expiry: 9999999999h}", "http:\n\taddr: x", "!!null",
		"policy: [{who: [a], repos: ['**'], may: [pull]}]", "policy: {a: b}\nimmutable: ['**:v*', x]", "policy:\n- a\n- {who: b}\n- ~\n",
		"auth: {oidc: {a: {issuer: 'https://a', client_secret: \"x\\n\"}}, workload: {b: {claims: [c=d]}}}", "webhooks: {a: ~, b: {events: [pull]}}",
		"http: {trusted_proxies: [10.0.0.0/8, x], tls: {acme: {domains: a}}}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := load(text)
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Errorf("Validate after load: %v", err)
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "berth.yaml:") {
				t.Errorf("problem does not name the file: %q", line)
			}
		}
	})
}
