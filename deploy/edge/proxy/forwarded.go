package proxy

import (
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	forwardedPrefix = "X-Forwarded-Prefix"
	realIP          = "X-Real-Ip"
)

// trusted says whether a request came by a proxy that is believed.
func trusted(r *http.Request) bool {
	is, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return is
}

// secure says whether a client came by HTTPS, to here or to a proxy that is trusted.
func secure(r *http.Request) bool {
	return r.TLS != nil || trusted(r) && r.Header.Get("X-Forwarded-Proto") == "https"
}

// forwarded makes what a request says of its way here true: of a client that is no
// trusted proxy nothing is left, and Caddy says again what it knows. A client cannot
// take away what is said, either, by naming it for one hop (RFC 9110, section 7.6.1).
func forwarded(r *http.Request) {
	if !trusted(r) {
		for name := range r.Header {
			if tellsWay(name) {
				r.Header.Del(name)
			}
		}
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && r.Header.Get(realIP) == "" {
		r.Header.Set(realIP, ip)
	}
	var kept []string
	for _, field := range r.Header["Connection"] {
		for token := range strings.SplitSeq(field, ",") {
			if token = textproto.TrimString(token); !tellsWay(textproto.CanonicalMIMEHeaderKey(token)) {
				kept = append(kept, token)
			}
		}
	}
	if kept != nil {
		r.Header.Set("Connection", strings.Join(kept, ", "))
	}
}

// tellsWay says whether a header, in its canonical form, is of those that tell where a
// request has come from.
func tellsWay(name string) bool {
	return name == realIP || name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-")
}

// streamQuiet is how long a call of gRPC may be quiet, in either direction: as other
// streams, for as long as it likes.
const streamQuiet = 365 * 24 * time.Hour

// letBeQuiet lets the client of a call of gRPC send nothing for longer than others may:
// the body of its request is a stream.
func letBeQuiet(r *http.Request) {
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(r.Context()); reader != nil && isGRPC(r) {
		reader.Override(streamQuiet, 0)
	}
}
