package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// Client speaks to the program that serves. Errors are of the kinds of package runner:
// ErrUnavailable if the program does not answer.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the program behind a control socket.
func NewClient(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Status asks the program for its status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.do(ctx, http.MethodGet, StatusPath, nil, nil, &s)
	return s, err
}

// SetRoutes replaces the routes of an owner.
func (c *Client) SetRoutes(ctx context.Context, owner string, routes []deploy.EdgeRoute) error {
	if routes == nil {
		routes = []deploy.EdgeRoute{}
	}
	return c.do(ctx, http.MethodPut, RoutesPath, url.Values{"owner": {owner}}, routes, nil)
}

// CheckRoutes says whether SetRoutes would take the routes of an owner.
func (c *Client) CheckRoutes(ctx context.Context, owner string, routes []deploy.EdgeRoute) error {
	return c.do(ctx, http.MethodPost, RoutesPath, url.Values{"owner": {owner}}, routes, nil)
}

// Routes returns all routes by their owners.
func (c *Client) Routes(ctx context.Context) (owners map[string][]deploy.EdgeRoute, err error) {
	err = c.do(ctx, http.MethodGet, RoutesPath, nil, nil, &owners)
	return owners, err
}

// Requests counts the requests that a container has now by way of the edge.
func (c *Client) Requests(ctx context.Context, containerID string) (n int, err error) {
	err = c.do(ctx, http.MethodGet, RequestsPath, url.Values{"container": {containerID}}, nil, &n)
	return n, err
}

// Wait returns when the program has ended, or serves no longer.
func (c *Client) Wait(ctx context.Context) {
	_ = c.do(ctx, http.MethodGet, AlivePath, nil, nil, nil) // however it ends
}

// Retire makes the program take no further request. When it returns, all that are to
// come are those of whoever has the listening sockets. The program ends with its last
// request.
func (c *Client) Retire(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, RetirePath, nil, nil, nil)
}

// Stop ends the program, when its requests have ended or a few seconds have gone by.
func (c *Client) Stop(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, StopPath, nil, nil, nil)
}

// maxAnswer bounds what the program answers, in bytes.
const maxAnswer = 64 << 20

func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	u := url.URL{Scheme: "http", Host: "edge", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return runner.Errorf(runner.ErrUnavailable, "the edge does not answer: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return runner.Errorf(runner.ErrUnavailable, "the edge has not answered to its end: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return problem(resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("what the edge answers: %w", err)
	}
	return nil
}

func problem(status int, text []byte) error {
	var p Problem
	if err := json.Unmarshal(text, &p); err != nil || p.Message == "" {
		p.Message = fmt.Sprintf("the edge answers %d", status)
	}
	if kind, ok := Statuses()[status]; ok {
		return runner.Errorf(kind, "%s", p.Message)
	}
	return fmt.Errorf("edge: %s", p.Message)
}

// patience is how long the program may take to say how it is.
const patience = 5 * time.Second
