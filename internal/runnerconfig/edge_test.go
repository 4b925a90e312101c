package runnerconfig

import (
	"strings"
	"testing"

	"github.com/berth-registry/berth/internal/settings"
)

func TestEdge(t *testing.T) {
	c, err := schema.Parse("c", []byte(`edge: {http: ":80", https: ":443", trusted_proxies: [10.0.0.0/8, "::1"], certs: /c, acme: {email: a@b.c, directory: "https://a/dir", directory_ca: /ca}, access_log: true, program: /p}`))
	if err != nil || !c.Edge.Enabled() || c.Edge.ACME.Email != "a@b.c" || len(c.Edge.TrustedProxies) != 2 || !c.Edge.AccessLog {
		t.Errorf("%+v, %v", c.Edge, err)
	}
	if Default().Edge.Enabled() {
		t.Error("there is an edge without being asked for")
	}
	for text, want := range map[string]string{
		`edge: {http: ":80", https: ":80"}`:             `expected two addresses that differ, found ":80" for edge.http and ":80" for edge.https`,
		"edge: {http: ':80'}\nmetrics: {addr: ':80'}":   `found ":80" for edge.http and ":80" for metrics.addr`,
		`edge: {http: ":80", certs: /c}`:                `edge.certs: expected edge.https with it`,
		`edge: {http: ":80", acme: {email: a@b.c}}`:     `edge.acme.email: expected edge.https with it`,
		`edge: {trusted_proxies: [x]}`:                  `edge.trusted_proxies: expected a list of addresses or ranges such as 10.0.0.0/8, found "x"`,
		`edge: {https: ":443", acme: {email: "a b@c"}}`: `edge.acme.email: expected an e-mail address, or ""`,
	} {
		if _, err := schema.Parse("c", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	// Each key has a field of its own.
	for path, value := range map[string]string{"edge.http": ":1", "edge.https": ":2", "edge.access_log": "true", "edge.program": "/p"} {
		c, err := Load("", nil, settings.Setting{Key: path, Value: value})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if changed, restart := Reloadable(Default(), c); len(changed) != 0 || len(restart) != 1 || restart[0] != path {
			t.Errorf("%s changes %q, %q", path, changed, restart)
		}
	}
}
