package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/berth-registry/berth/registry"
)

// Patience is how long an answer may take, or a part of one that comes in parts.
const Patience = time.Minute

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 256 << 20

// Doer sends requests, with what proves who the client is. An *http.Client is one.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Client speaks to a server of the API. Its methods return the errors of this
// package and of package registry that the server has told, or what went wrong on
// the way.
type Client struct {
	do   Doer
	base string
}

// NewClient returns a client of the server at base, "https://host".
func NewClient(do Doer, base string) *Client {
	return &Client{do: do, base: strings.TrimSuffix(base, "/")}
}

// NewSocketClient returns a client of the server that listens on a socket.
func NewSocketClient(path string) *Client {
	t := &http.Transport{
		DisableKeepAlives: true, // nobody closes a Client
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return DialSocket(ctx, path) },
	}
	return NewClient(&http.Client{Transport: t}, "http://berth")
}

// NewHandlerClient returns a client of a server in the same process.
func NewHandlerClient(h http.Handler) *Client {
	return NewClient(&http.Client{Transport: inProcess{h}}, "http://berth")
}

// WhoAmI says who the server takes the client for.
func (c *Client) WhoAmI(ctx context.Context) (s Self, err error) {
	err = c.call(ctx, "GET", "whoami", nil, &s)
	return s, err
}

// Users lists the accounts by name.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var list userList
	err := c.call(ctx, "GET", "users", nil, &list)
	return list.Users, err
}

// User returns an account.
func (c *Client) User(ctx context.Context, name string) (u User, err error) {
	err = c.callNamed(ctx, "GET", "users/", name, "", ErrAccountUnknown, nil, &u)
	return u, err
}

// CreateUser makes an account.
func (c *Client) CreateUser(ctx context.Context, n NewUser) (u User, err error) {
	err = c.call(ctx, "POST", "users", n, &u)
	return u, err
}

// ChangeUser changes an account, and returns what it is then.
func (c *Client) ChangeUser(ctx context.Context, name string, change UserChange) (u User, err error) {
	if change.Groups != nil && *change.Groups == nil {
		change.Groups = &[]string{} // null would be no change
	}
	err = c.callNamed(ctx, "PATCH", "users/", name, "", ErrAccountUnknown, change, &u)
	return u, err
}

// SetPassword sets an account's password.
func (c *Client) SetPassword(ctx context.Context, name string, change PasswordChange) error {
	return c.callNamed(ctx, "PUT", "users/", name, "/password", ErrAccountUnknown, change, nil)
}

// RemoveUser removes an account and its keys.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.callNamed(ctx, "DELETE", "users/", name, "", ErrAccountUnknown, nil, nil)
}

// Tokens lists the API keys of an account; if it is empty, the client's own.
func (c *Client) Tokens(ctx context.Context, account string) ([]Token, error) {
	query := ""
	if account != "" {
		query = "?account=" + url.QueryEscape(account)
	}
	return c.tokens(ctx, query)
}

// AllTokens lists all API keys, by account.
func (c *Client) AllTokens(ctx context.Context) ([]Token, error) { return c.tokens(ctx, "?all=true") }

func (c *Client) tokens(ctx context.Context, query string) ([]Token, error) {
	var list tokenList
	err := c.call(ctx, "GET", "tokens"+query, nil, &list)
	return list.Tokens, err
}

// CreateToken makes an API key. Its secret is told this once.
func (c *Client) CreateToken(ctx context.Context, n NewToken) (t Token, err error) {
	err = c.call(ctx, "POST", "tokens", n, &t)
	return t, err
}

// RevokeToken makes an API key useless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.callNamed(ctx, "DELETE", "tokens/", id, "", ErrTokenUnknown, nil, nil)
}

// RotateSigningKeys has a new key sign registry tokens from now on.
func (c *Client) RotateSigningKeys(ctx context.Context) error {
	return c.call(ctx, "POST", "signing-keys/rotate", struct{}{}, nil)
}

// callNamed calls a route with a name in its path. A name that a proxy on the way
// could take for another path is none.
func (c *Client) callNamed(ctx context.Context, method, before, name, after string, unknown error, in, out any) error {
	if !validPart(name) {
		return unknown
	}
	return c.call(ctx, method, before+url.PathEscape(name)+after, in, out)
}

// validPart says whether a name can be a component of a path.
func validPart(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.Contains(name, "/")
}

// request makes a request with a body, unless in is nil.
func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+Prefix+path, body)
	if err == nil && in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := c.do.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return readError(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	return nil
}

// readError makes the error of the answer, as the server has met it.
func readError(resp *http.Response) error {
	var list errorList
	err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&list)
	if err != nil || len(list.Errors) == 0 {
		return fmt.Errorf("the server answers %s: it has no such API", resp.Status)
	}
	return list.Errors[0].asError(resp.StatusCode)
}

// asError is the error as the server has met it. status is 0 if it is not known.
func (e wireError) asError(status int) error {
	message := strings.Map(func(r rune) rune { // it is shown on a terminal
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, e.Message)
	for _, kind := range known {
		if (status == 0 || kind.Status == status) && kind.Code == e.Code {
			return kind.With("%s", message)
		}
	}
	return (&registry.Error{Code: e.Code, Status: status}).With("%s", message)
}

// inProcess hands requests to a handler.
type inProcess struct{ h http.Handler }

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	r := req.Clone(ctx)
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.RemoteAddr = fmt.Sprintf("uid=%d,pid=%d", os.Getuid(), os.Getpid()) // as that of who comes by a socket
	r.RequestURI, r.Host = r.URL.RequestURI(), r.URL.Host
	reader, writer := io.Pipe()
	w := &piped{header: http.Header{}, begun: make(chan struct{}), writer: writer}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.h.ServeHTTP(w, r)
		r.Body.Close()
		w.WriteHeader(http.StatusOK)
		_ = writer.Close() // never fails, io says
	}()
	<-w.begun
	return &http.Response{
		StatusCode: w.status, Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Request: req,
		Body: &pipedBody{PipeReader: reader, end: func() { cancel(); <-done }},
	}, nil
}

// piped is an answer within a process.
type piped struct {
	header, sent http.Header
	status       int
	begun        chan struct{} // closed when there is a status
	writer       *io.PipeWriter
}

func (p *piped) Header() http.Header { return p.header }

func (p *piped) WriteHeader(status int) {
	if p.status == 0 {
		p.status, p.sent = status, p.header.Clone()
		close(p.begun)
	}
}

func (p *piped) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return p.writer.Write(b)
}

// Flush implements http.Flusher: nothing is held back.
func (p *piped) Flush() {}

// pipedBody is the body of an answer within a process. When it is closed, the
// handler has ended.
type pipedBody struct {
	*io.PipeReader
	end func()
}

// Close implements io.Closer.
func (b *pipedBody) Close() error {
	err := b.PipeReader.Close()
	b.end()
	return err
}
