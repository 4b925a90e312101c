package remote

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/runner"
)

const (
	maxAttempts = 5
	firstWait   = 250 * time.Millisecond
	// maxWait is how long a server may ask to be left alone before its answer is
	// taken as an error.
	maxWait = time.Minute
)

// session is a server with the credentials of one operation. Tokens are kept as
// long as it is.
type session struct {
	*server
	c    *Client
	auth *auth.Client
}

func (c *Client) session(s *server, login auth.Credential) *session {
	if s.mirror {
		login = s.login
	}
	a := &auth.Client{
		Client:   &http.Client{Transport: oneChallenge{s.transport}},
		Cache:    auth.NewCache(),
		ClientID: defaultAgent,
		Credential: func(_ context.Context, host string) (auth.Credential, error) {
			if host == s.host {
				return login, nil
			}
			return auth.EmptyCredential, nil
		},
	}
	a.SetUserAgent(c.o.UserAgent)
	if s.local {
		// Its token service may well be local, too.
		a.BlockedRealmPrefixes = []netip.Prefix{}
	}
	return &session{server: s, c: c, auth: a}
}

// oneChallenge leaves of several challenges the one that auth.Client, which looks
// at the first only, can answer.
type oneChallenge struct{ http.RoundTripper }

// RoundTrip makes a request.
func (o oneChallenge) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.RoundTripper.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	const name = "Www-Authenticate"
	for _, want := range []string{"bearer", "basic"} {
		for _, challenge := range resp.Header[name] {
			if scheme, _, _ := strings.Cut(challenge, " "); strings.EqualFold(scheme, want) {
				resp.Header[name] = []string{challenge}
				return resp, nil
			}
		}
	}
	return resp, nil
}

// credential is what a client of the API has sent.
func credential(a *registry.AuthConfig) (auth.Credential, error) {
	if a == nil {
		return auth.EmptyCredential, nil
	}
	cred := auth.Credential{
		Username: a.Username, Password: a.Password,
		RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken,
	}
	if a.Auth != "" && a.Username == "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(decoded), ":")
		if err != nil || !ok {
			return cred, runner.Errorf(runner.ErrInvalid, "invalid registry credentials: auth is not base64 of user:password")
		}
		cred.Username, cred.Password = user, strings.TrimRight(password, "\x00")
	}
	return cred, nil
}

// call is one request to a server.
type call struct {
	method string
	path   string   // below the server's URL
	query  string   // encoded
	url    *url.URL // instead, where the server said
	header http.Header
	scopes []string      // of the token that it needs
	ok     []int         // statuses that are no error
	silent time.Duration // that it may take to answer, beyond the time of all others

	body func() (io.ReadCloser, error) // opens it, once for each time that it is sent
	size int64
}

// base is the server's URL.
func (s *session) base(ctx context.Context) (*url.URL, error) {
	scheme, err := s.c.scheme(ctx, s.server)
	if err != nil {
		return nil, plainError(nil, err)
	}
	return &url.URL{Scheme: scheme, Host: s.host, Path: "/"}, nil
}

// send makes a request and returns the response if its status is one of q.ok.
func (s *session) send(ctx context.Context, q call) (*http.Response, error) {
	u := q.url
	if u == nil {
		base, err := s.base(ctx)
		if err != nil {
			return nil, err
		}
		base.Path += q.path
		base.RawQuery = q.query
		u = base
	}
	ctx, w := watch(auth.AppendScopesForHost(ctx, u.Host, q.scopes...), u.Host, s.c.o.StallTimeout)
	if q.silent > 0 {
		w.timer.Reset(w.d + q.silent)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), http.NoBody)
	if err != nil {
		w.end()
		return nil, err
	}
	maps.Copy(req.Header, q.header)
	if err := attach(req, q, w); err != nil {
		w.end()
		return nil, err
	}
	resp, err := s.auth.Do(req)
	if err != nil {
		err = w.explain(err)
		w.end()
		s.c.schemes.forget(s.host)
		return nil, plainError(req, err)
	}
	if slices.Contains(q.ok, resp.StatusCode) {
		w.pause()
		resp.Body = &watchedBody{resp.Body, w}
		return resp, nil
	}
	defer w.end()
	defer resp.Body.Close()
	rerr := newResponseError(resp)
	if resp.StatusCode == http.StatusBadRequest && len(rerr.errs) == 0 {
		s.c.schemes.forget(s.host) // it may speak TLS now
	}
	return nil, rerr
}

// retry sends a request whose failure may pass several times.
func (s *session) retry(ctx context.Context, q call) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := s.send(ctx, q)
		if err == nil || n == maxAttempts || s.mirror || !passing(err) {
			return resp, err
		}
		if werr := wait(ctx, n, err); werr != nil {
			return nil, werr
		}
	}
}

// passing says whether an error may be gone the next time.
func passing(err error) bool {
	if resp, ok := errors.AsType[*responseError](err); ok {
		switch resp.status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			return resp.after <= maxWait
		case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var stalled *stalledError
	if errors.As(err, &stalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || unreachable(err) {
		return false
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op != "remote error" || isTimeout(err)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// wait waits before the next attempt after n that failed, as long as the server
// asked for if it did.
func wait(ctx context.Context, n int, err error) error {
	t := time.NewTimer(pause(n, err))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func pause(n int, err error) time.Duration {
	d := firstWait << min(n-1, 5)
	d += rand.N(d / 2) //nolint:gosec // spreads clients over time
	if resp, ok := errors.AsType[*responseError](err); ok {
		d = max(d, min(resp.after, maxWait))
	}
	return d
}

// retryAfter is what the header of that name says (RFC 9110, 10.2.3).
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

// unreachable says whether nobody answered at all: a registry that restarts, if
// it was there before.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
