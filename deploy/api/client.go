package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// ErrOther says that a daemon answers that does not serve this API.
var ErrOther = errors.New("the daemon there deploys no stacks: it is another one, or an older berth-runner")

// Client does what Stacks says at a daemon.
type Client struct {
	http *http.Client
}

// NewClient makes a client of the daemon that dial connects to.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return ErrOther },
	}}
}

// Close lets go of connections that are not used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Deploy implements Stacks. If the daemon goes away meanwhile, the error is a
// runner.ErrUnavailable.
func (c *Client) Deploy(ctx context.Context, req deploy.Request, watch func(deploy.Event)) (r deploy.Revision, err error) {
	err = c.watch(ctx, post, stackPath(req.Stack.Name, "deploy"), req, watch, &r)
	return r, err
}

// Plan implements Stacks.
func (c *Client) Plan(ctx context.Context, req deploy.Request) (p deploy.Plan, err error) {
	err = c.ask(ctx, post, stackPath(req.Stack.Name, "deploy")+"?dry-run=1", req, &p)
	return p, err
}

// Rollback implements Stacks.
func (c *Client) Rollback(ctx context.Context, stack string, to int, by string, watch func(deploy.Event)) (r deploy.Revision, err error) {
	q := url.Values{"by": {by}, "to": {strconv.Itoa(to)}}
	err = c.watch(ctx, post, stackPath(stack, "rollback")+"?"+q.Encode(), nil, watch, &r)
	return r, err
}

// Scale implements Stacks.
func (c *Client) Scale(ctx context.Context, stack string, replicas map[string]int, by string, watch func(deploy.Event)) (r deploy.Revision, err error) {
	err = c.watch(ctx, post, stackPath(stack, "scale"), scaling{replicas, by}, watch, &r)
	return r, err
}

// Remove implements Stacks.
func (c *Client) Remove(ctx context.Context, stack string, volumes bool, watch func(deploy.Event)) error {
	path := stackPath(stack, "")
	if volumes {
		path += "?volumes=1"
	}
	return c.watch(ctx, remove, path, nil, watch, &struct{}{})
}

// Cancel implements Stacks.
func (c *Client) Cancel(ctx context.Context, stack string) error {
	return c.ask(ctx, post, stackPath(stack, "cancel"), nil, nil)
}

// Stacks implements Stacks.
func (c *Client) Stacks(ctx context.Context) (all []deploy.Status, err error) {
	err = c.ask(ctx, get, Prefix+"stacks", nil, &all)
	return all, err
}

// Status implements Stacks.
func (c *Client) Status(ctx context.Context, stack string) (s deploy.Status, err error) {
	err = c.ask(ctx, get, stackPath(stack, ""), nil, &s)
	return s, err
}

// History implements Stacks.
func (c *Client) History(ctx context.Context, stack string) (all []deploy.Revision, err error) {
	err = c.ask(ctx, get, stackPath(stack, "history"), nil, &all)
	return all, err
}

// Stack implements Stacks.
func (c *Client) Stack(ctx context.Context, stack string, revision int) (s deploy.Stack, err error) {
	err = c.ask(ctx, get, stackPath(stack, "revisions/"+strconv.Itoa(revision)), nil, &s)
	return s, err
}

func stackPath(stack, of string) string {
	path := Prefix + "stacks/" + url.PathEscape(stack)
	if of != "" {
		path += "/" + of
	}
	return path
}

// ask sends a request and reads the answer into v, or nothing if that is nil.
func (c *Client) ask(ctx context.Context, method, path string, body, v any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	return nil
}

// watch sends a request whose answer lasts, tells its events, and reads the result
// into v.
func (c *Client) watch(ctx context.Context, method, path string, body any, watch func(deploy.Event), v any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var l struct {
			Event  *deploy.Event
			Result json.RawMessage
			Error  *answerError
		}
		if err := d.Decode(&l); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errGone(err)
		}
		switch {
		case l.Event != nil && watch != nil:
			watch(*l.Event)
		case l.Error != nil:
			return l.Error.toError(0)
		case l.Result != nil:
			if err := json.Unmarshal(l.Result, v); err != nil {
				return fmt.Errorf("the daemon's answer: %w", err)
			}
			return nil
		}
	}
}

func errGone(err error) error {
	return runner.Errorf(runner.ErrUnavailable, "the daemon went away: %w", err)
}

// send sends a request and returns the answer, or what it says is wrong.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
		if len(data) > MaxBody {
			return nil, errTooLarge()
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://berth-runner"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", mediaJSON)
	}
	resp, err := c.http.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL says nothing to anybody
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil, errGone(err) // it may have got the request
	}
	if err != nil {
		return nil, err
	}
	if resp.Header.Get(versionHeader) == "" {
		return nil, errors.Join(ErrOther, resp.Body.Close())
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

func readError(resp *http.Response) error {
	const enough = 8 << 20 // with all lines of a log
	var a answerError
	raw, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if err == nil {
		err = json.Unmarshal(raw, &a)
	}
	if err != nil {
		return fmt.Errorf("the daemon answers %s: %w", resp.Status, err)
	}
	return a.toError(resp.StatusCode)
}
