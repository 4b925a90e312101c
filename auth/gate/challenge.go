package gate

import (
	"net/http"
	"strings"
)

// param is a parameter of a challenge.
type param struct{ name, value string }

// challenge writes the value of a WWW-Authenticate header: one challenge, whose
// parameters are all quoted strings (RFC 9110, sections 11.2 and 5.6.4). Those
// without a value are left out. What no quoted string may contain is replaced.
func challenge(scheme string, params ...param) string {
	var b strings.Builder
	b.WriteString(scheme)
	sep := byte(' ')
	for _, p := range params {
		if p.value == "" {
			continue
		}
		b.WriteByte(sep)
		b.WriteString(p.name)
		b.WriteString(`="`)
		for i := range len(p.value) {
			switch c := p.value[i]; {
			case c == '"' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c < ' ' || c == 0x7f:
				b.WriteByte('?')
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('"')
		sep = ','
	}
	return b.String()
}

// The errors of a Bearer challenge (RFC 6750, section 3.1).
const (
	invalidToken      = "invalid_token"
	insufficientScope = "insufficient_scope"
)

// challenge is what a client is told that lacks scope, or sent credentials that
// are wrong (RFC 6750, section 3; distribution token specification, "How to
// authenticate").
func (g *Gate) challenge(r *http.Request, scope, failure string) string {
	if e := g.o.External; e != nil {
		return challenge("Bearer", param{"realm", e.Realm()}, param{"service", e.Service()}, param{"scope", scope}, param{"error", failure})
	}
	if g.live.Load().Basic || g.o.Tokens == nil {
		return g.basicChallenge()
	}
	realm := g.o.Realm
	if realm == "" {
		realm = g.o.Base(r) + "/token"
	}
	return challenge("Bearer", param{"realm", realm}, param{"service", g.o.Service}, param{"scope", scope}, param{"error", failure})
}

func (g *Gate) basicChallenge() string {
	realm := g.o.Service
	if realm == "" {
		realm = "registry"
	}
	return challenge("Basic", param{"realm", realm}, param{"charset", "UTF-8"})
}
