package audit

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/berth-registry/berth/internal/trust"
)

// Webhook is somebody who wants to be told of events.
//
// Each event is a POST of a CloudEvent in structured JSON mode, signed as Standard
// Webhooks 1.0 says (https://www.standardwebhooks.com). Any answer of 2xx means
// that the event has arrived. Otherwise it is sent again, and those behind it wait,
// as events come in order: after 1 s, then 2 s and so on up to 10 min, at
// random a little later. An answer of 4xx other than 408 and 429 is not likely to
// change soon and is followed by 10 min at once; 410 does not end the webhook, as
// only the configuration does. Retry-After is heeded, up to a day. Redirects are
// failures.
type Webhook struct {
	// Name tells it from others, in the store also: what waits for a webhook waits
	// for its name. It is of letters, digits, ".", "_" and "-", up to 64.
	Name string
	// URL is of http or https.
	URL string
	// Secret signs what is sent: "whsec_" and base64, or the text itself, of at
	// least 24 bytes. If it is empty nothing is signed, and whoever receives it
	// cannot know that it is true.
	Secret string
	// Events are the kinds it wants: Push, Pull, Delete, TagMove. If there are none it is all
	// but Pull.
	Events []Kind
	// Match says whether it wants events of a repository; nil means of all. It is
	// called in transactions: it must be quick, and do nothing else.
	Match func(repo string) bool
	// CA is a file of certificates (PEM) to trust instead of the system's.
	CA string
	// Timeout is how long the whole of a request may take; 15 s if it is 0.
	Timeout time.Duration
}

const (
	defaultTimeout = 15 * time.Second
	// minSecret is the length of a secret in bytes (Standard Webhooks 1.0, "Signature scheme").
	minSecret    = 24
	secretPrefix = "whsec_"
	maxName      = 64
)

// hook is a webhook that works.
type hook struct {
	name    string
	url     string
	signer  *standardwebhooks.Webhook // or nil
	kinds   []Kind
	match   func(repo string) bool
	timeout time.Duration
	client  *http.Client
	wake    chan struct{}
	counts  *hookCounts
}

// hookCounts outlive changes of the webhook.
type hookCounts struct {
	delivered, failed atomic.Int64
	told              atomic.Int64 // of the events that were dropped, how many the log knows of
	toldAt            atomic.Int64 // when, Unix seconds
}

func newHook(w Webhook) (*hook, error) {
	h := &hook{
		name: w.Name, url: w.URL, kinds: w.Events, match: w.Match, timeout: cmp.Or(w.Timeout, defaultTimeout),
		wake: make(chan struct{}, 1), counts: new(hookCounts),
	}
	if !validName(w.Name) {
		return nil, fmt.Errorf("%q is no name of a webhook: expected letters, digits, \".\", \"_\" and \"-\", up to %d", clip(w.Name, maxName), maxName)
	}
	if h.timeout < 0 {
		return nil, fmt.Errorf("webhook %s: a timeout of %s", w.Name, w.Timeout)
	}
	if len(h.kinds) == 0 {
		h.kinds = []Kind{Push, TagMove, Delete}
	}
	for _, k := range h.kinds {
		if !slices.Contains([]Kind{Push, Pull, Delete, TagMove}, k) {
			return nil, fmt.Errorf("webhook %s: there are no events %q: expected push, pull, delete or tag", w.Name, string(k))
		}
	}
	err := errors.Join(checkURL(w.URL), h.setSecret(w.Secret), h.setClient(w.CA))
	if err != nil {
		return nil, fmt.Errorf("webhook %s: %w", w.Name, err)
	}
	return h, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// checkURL does not repeat the URL, which may have a password in it.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("its URL is not one of http or https")
	}
	return nil
}

func (h *hook) setSecret(secret string) (err error) {
	if secret == "" {
		return nil
	}
	size := len(secret)
	if encoded, ok := strings.CutPrefix(secret, secretPrefix); ok {
		size = len(encoded) * 3 / 4
		h.signer, err = standardwebhooks.NewWebhook(secret)
	} else {
		h.signer, err = standardwebhooks.NewWebhookRaw([]byte(secret))
	}
	if err != nil {
		return errors.New("what follows whsec_ in its secret is no base64")
	}
	if size < minSecret {
		return fmt.Errorf("its secret has %d bytes: expected %d at least, as of \"openssl rand -base64 32\"", size, minSecret)
	}
	return nil
}

func (h *hook) setClient(ca string) error {
	roots, err := trust.Authorities(ca)
	if err != nil {
		return err
	}
	h.client = &http.Client{
		Timeout: h.timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    1, // events go one after the other
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// The body would go to whoever the receiver names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// wants says whether the webhook wants to be told of an event.
func (h *hook) wants(e *Event) bool {
	return slices.Contains(h.kinds, e.Kind) && (h.match == nil || h.match(e.Repo))
}
