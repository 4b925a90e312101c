package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/rollout"
)

// Watches is what has clients wait; a hub.Hub is one.
type Watches interface {
	// Wait answers as soon as there is something new about a tag for who knows a version
	// of it. It may do so after it has returned. If it fails it has not answered.
	Wait(w http.ResponseWriter, r *http.Request, account string, ref rollout.Ref, version string, timeout time.Duration) error
}

// MaxWatch is how long a watch can last.
const MaxWatch = 5 * time.Minute

// watch waits for something new about a tag.
func (c *call) watch() (int, any, error) {
	if c.Watches == nil {
		return 0, nil, errNotOffered
	}
	ref, err := c.ref(auth.Pull)
	if err != nil {
		return 0, nil, err
	}
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return 0, nil, ErrRequestInvalid.With("invalid query")
	}
	version, timeout := query.Get("version"), MaxWatch
	if len(version) > 256 {
		return 0, nil, ErrRequestInvalid.With("version: want one that the server has told")
	}
	if t := query.Get("timeout"); t != "" {
		if timeout, err = time.ParseDuration(t); err != nil || timeout < 0 || timeout > MaxWatch {
			return 0, nil, ErrRequestInvalid.With("timeout: want a duration of at most %s", MaxWatch)
		}
	}
	account := c.who.id.Account
	if c.who.open {
		account = "" // as anybody
	}
	if err := c.Watches.Wait(c.w, c.r, account, ref, version, timeout); err != nil {
		return 0, nil, err
	}
	c.streamed = true
	return 0, nil, nil
}

// Watch waits until there is something new about a tag for who knows a version of it, and
// returns the new version; the same one, if there was nothing new for as long as timeout,
// which is at most MaxWatch.
func (c *Client) Watch(ctx context.Context, ref rollout.Ref, version string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+Patience)
	defer cancel()
	query := url.Values{"version": {version}, "timeout": {timeout.String()}}
	req, err := c.request(ctx, "GET", "watch/"+escaped(ref)+"?"+query.Encode(), nil)
	if err != nil {
		return version, err
	}
	resp, err := c.do.Do(req)
	if err != nil {
		return version, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return version, nil
	case resp.StatusCode != http.StatusOK:
		return version, readError(resp)
	}
	var news struct {
		Version string `json:"version"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&news); err != nil {
		return version, fmt.Errorf("the server's answer: %w", err)
	}
	if news.Version == "" {
		return version, errors.New("the server's answer has no version")
	}
	return news.Version, nil
}
