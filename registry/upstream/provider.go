package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// maxAnswer bounds what is read of a provider's answer.
const maxAnswer = 256 << 10

// plainClient asks providers' services, through the proxy of the upstream if they
// are not of this machine or its network. What the upstream's authority signs is
// not theirs.
func (u *Upstream) plainClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: func(req *http.Request) (*url.URL, error) {
				if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && distanceOf(ip) != public {
					return nil, nil //nolint:nilnil // how to say that there is none
				}
				return u.pool.Proxy(req)
			},
			ForceAttemptHTTP2: true, DisableKeepAlives: true,
			DialContext:         (&net.Dialer{Timeout: u.o.DialTimeout}).DialContext,
			TLSHandshakeTimeout: u.o.DialTimeout,
		},
		Timeout: fetchTime, CheckRedirect: noRedirect,
	}
}

// noRedirect keeps secrets in a request's body where they were sent.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// askJSON sends a request and returns the answer. Its errors have neither the URL
// nor anything of the answer in them.
func askJSON(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req) //nolint:gosec // the configuration and the environment say where
	if err != nil {
		if f, ok := errors.AsType[*fault](err); ok {
			return nil, f
		}
		return nil, errors.New(connectionFault(err, req.URL.Host).reason)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d %s", req.URL.Host, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, errors.New(connectionFault(err, req.URL.Host).reason)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("%s answers more than any token has", req.URL.Host)
	}
	return data, nil
}

// postForm posts a form and decodes the answer.
func postForm(ctx context.Context, client *http.Client, to string, form url.Values, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode())) //nolint:gosec // as above
	if err != nil {
		return errors.New("the address of the service is not valid")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	data, err := askJSON(client, req)
	if err != nil {
		return err
	}
	return decode(data, answer)
}

// decode does not repeat what is not valid.
func decode(data []byte, answer any) error {
	if json.Unmarshal(data, answer) != nil {
		return errors.New("what it answered is not valid")
	}
	return nil
}
