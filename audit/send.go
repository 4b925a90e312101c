package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/berth-registry/berth/storage"
)

const (
	// shortest and longest are between what a webhook that failed is left alone for.
	shortest = time.Second
	longest  = 10 * time.Minute
	// maxAfter is how much of a Retry-After is believed.
	maxAfter = 24 * time.Hour
	// maxAnswer is how much of an answer is read, in bytes, so that the connection
	// can be used again.
	maxAnswer = 4 << 10
)

// refusal is an answer that says that an event has not arrived.
type refusal struct {
	status int
	after  time.Duration // not to be asked again before
}

func (r *refusal) Error() string {
	return fmt.Sprintf("answer %d %s", r.status, http.StatusText(r.status))
}

// lasting says that the answer will be the same in a while: redirects too are
// mended by an operator.
func (r *refusal) lasting() bool {
	return r.status >= 300 && r.status < 500 && r.status != http.StatusRequestTimeout && r.status != http.StatusTooManyRequests
}

// send sends an event. An error does not name the URL, which may have secrets in it.
func (h *hook) send(ctx context.Context, d storage.Delivery, now time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(d.Body))
	if err != nil {
		return errors.New("the URL is invalid")
	}
	req.Header.Set("Content-Type", ContentType)
	req.Header.Set("User-Agent", "berth")
	req.Header.Set(standardwebhooks.HeaderWebhookID, d.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if h.signer != nil {
		signature, err := h.signer.Sign(d.ID, now, d.Body)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return err
	}
	// Whatever the body says, and whether or not it is whole: the status counts.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	_ = resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return &refusal{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), now)}
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3); 0 if there
// is none, or none that makes sense.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 63); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, uint64(maxAfter/time.Second))) * time.Second
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), maxAfter)
}

// delay is how long to leave a webhook alone that has failed now, and tries times
// in a row before. Those that failed together do not all come back together.
func delay(tries int, err error) time.Duration {
	d := min(shortest<<min(tries, 20), longest)
	if r, ok := errors.AsType[*refusal](err); ok {
		if r.lasting() {
			d = longest
		}
		d = max(d, r.after)
	}
	return d + rand.N(d/4) //nolint:gosec // nothing is gained by guessing it
}
