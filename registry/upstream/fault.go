package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-registry/berth/registry/remote"
)

// kind is whose doing a fault is, and what follows from it.
type kind int

const (
	failed    kind = iota // the upstream's: some in a row open the breaker
	limited               // 429: opens it at once
	paused                // 503 that says when to come again: opens it at once
	refused               // the upstream does not take the mirror's credentials
	denied                // it takes them, and they are not enough
	barred                // it led to where the mirror does not go
	cancelled             // the caller gave up, or had nothing to send
)

// fault is why an exchange brought no answer that counts. Its text names hosts,
// and neither URLs nor secrets.
type fault struct {
	kind   kind
	reason string
	after  time.Duration // until when the upstream says to wait; 0 if it does not
	slow   bool          // it took a whole timeout to fail
	again  bool          // sending it again may help
	cause  error         // a sentinel, or the caller's own error, or nil
}

func (f *fault) Error() string { return f.reason }
func (f *fault) Unwrap() error { return f.cause }

// alive says that the upstream did answer, if not as one would like.
func (f *fault) alive() bool { return f.kind == refused || f.kind == denied || f.kind == barred }

// faultOf is the fault that an answer is by its status, or nil. It reads the
// answer's body if it is one.
func faultOf(resp *http.Response, now time.Time) *fault {
	f := &fault{after: retryAfter(resp.Header.Get("Retry-After"), now)}
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests:
		f.kind = limited
	case status == http.StatusServiceUnavailable && f.after > 0:
		f.kind = paused
	case status >= http.StatusInternalServerError, status == http.StatusRequestTimeout:
		f.again = status != http.StatusNotImplemented && status != http.StatusInsufficientStorage
	default:
		return nil
	}
	f.reason = answered(resp)
	return f
}

// answered tells of an answer, which it reads.
func answered(resp *http.Response) string {
	text := fmt.Sprintf("%s answered %d %s", resp.Request.URL.Host, resp.StatusCode, http.StatusText(resp.StatusCode))
	if said := remote.ErrorText(resp.Body); said != "" {
		text += ": " + said
	}
	return text
}

// classify makes a fault of any error of an exchange with host.
func classify(ctx context.Context, err error, host string) *fault {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return &fault{kind: cancelled, reason: "the request was given up", cause: context.Canceled}
	}
	if ctx.Err() != nil {
		return &fault{reason: host + " did not answer in time", cause: context.DeadlineExceeded}
	}
	if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return tokenFault(answer)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return &fault{kind: denied, reason: host + " wants credentials, and the mirror has none"}
	}
	return connectionFault(err, host)
}

// tokenFault is why a token server gave no token.
func tokenFault(answer *errcode.ErrorResponse) *fault {
	host := answer.URL.Host
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusBadRequest:
		return &fault{kind: refused, reason: "this registry's credentials were refused by " + host}
	case http.StatusForbidden:
		return &fault{kind: denied, reason: "access with this registry's credentials was denied by " + host}
	default:
		return &fault{reason: fmt.Sprintf("the token server %s answered %d %s", host, answer.StatusCode, http.StatusText(answer.StatusCode))}
	}
}

// connectionFault is why a connection could not be made or was lost.
func connectionFault(err error, host string) *fault {
	var (
		dns       *net.DNSError
		op        *net.OpError
		unknownCA x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		hostname  x509.HostnameError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   net.Error
	)
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		host = "the proxy to " + host
	}
	switch {
	case errors.As(err, &unknownCA):
		return &fault{reason: "the certificate of " + host + " is signed by an unknown authority"}
	case errors.As(err, &invalid), errors.As(err, &hostname), errors.As(err, &verify):
		return &fault{reason: "the certificate of " + host + " is not valid, or not its own"}
	case errors.As(err, &record), errors.As(err, &alert):
		return &fault{reason: "no TLS connection to " + host + " could be made"}
	case errors.As(err, &dns) && dns.IsNotFound:
		return &fault{reason: "the name " + dns.Name + " does not resolve"}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &fault{reason: host + " did not answer in time", slow: true}
	case errors.As(err, &dns):
		return &fault{reason: "the name " + dns.Name + " cannot be resolved", again: true}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &fault{reason: host + " refuses connections", again: true}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &fault{reason: "there is no route to " + host, again: true}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &fault{reason: host + " closed the connection", again: true}
	default:
		return &fault{reason: "the exchange with " + host + " failed", again: true}
	}
}
