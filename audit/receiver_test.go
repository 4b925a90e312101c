package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQPFv9nXWh0k="

// delivery is an event that has arrived.
type delivery struct {
	ID, Source, Type, Subject, Time string
	Data                            struct {
		Repository, Tag, Digest, Was, MediaType, Client, Request string
		Tags                                                     []string
		Size                                                     int64
		Actor                                                    struct{ Account, Source, Key string }
	}
}

// receiver is somebody who receives events, and believes none that is not signed.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	answer  func(w http.ResponseWriter, r *http.Request) // 204 if nil
	secret  string                                       // nothing is signed if empty
	tried   []delivery                                   // all that came
	arrived chan struct{}                                // closed and made anew when something comes
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, secret: secret, arrived: make(chan struct{})}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender has gone
	}
	d, err := r.open(req, body)
	if err != nil {
		r.t.Errorf("%v in %v\n%s", err, req.Header, body)
	}
	r.mu.Lock()
	answer := r.answer
	r.tried = append(r.tried, d)
	close(r.arrived)
	r.arrived = make(chan struct{})
	r.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(w, req)
}

// open checks all that CloudEvents and Standard Webhooks ask for.
func (r *receiver) open(req *http.Request, body []byte) (d delivery, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secret != "" {
		verify, err := standardwebhooks.NewWebhook(r.secret)
		if err != nil {
			return d, err
		}
		if err := verify.VerifyIgnoringTimestamp(body, req.Header); err != nil {
			return d, err
		}
	} else if s := req.Header.Values("webhook-signature"); len(s) > 0 {
		return d, fmt.Errorf("signature %q", s)
	}
	attributes := map[string]json.RawMessage{}
	if err := json.Unmarshal(body, &attributes); err != nil {
		return d, err
	}
	for _, name := range []string{"id", "source", "type", "specversion", "subject", "time", "datacontenttype", "data"} {
		if len(attributes[name]) == 0 {
			return d, fmt.Errorf("no %s", name)
		}
	}
	strict := json.NewDecoder(bytes.NewReader(attributes["data"]))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d.Data); err != nil {
		return d, err
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, err
	}
	_, err = time.Parse(time.RFC3339, d.Time)
	switch {
	case req.Method != http.MethodPost, req.Header.Get("Content-Type") != "application/cloudevents+json", req.UserAgent() != "berth":
		err = fmt.Errorf("method %s", req.Method)
	case string(attributes["specversion"]) != `"1.0"`, string(attributes["datacontenttype"]) != `"application/json"`:
		err = fmt.Errorf("attributes %s", body)
	case req.Header.Get("webhook-id") != d.ID, strings.Contains(d.ID, "."):
		err = fmt.Errorf("id %q", d.ID)
	}
	return d, err
}

// answers sets what the receiver says from now on.
func (r *receiver) answers(fn func(w http.ResponseWriter, r *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = fn
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// all returns what came, whether or not it was taken.
func (r *receiver) all() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tried)
}

// tags returns the tags of what came.
func (r *receiver) tags() (tags []string) {
	for _, d := range r.all() {
		tags = append(tags, d.Data.Tag)
	}
	return tags
}

// wait waits until so many events have come, and returns all.
func (r *receiver) wait(n int) []delivery {
	r.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		got, more := len(r.tried), r.arrived
		r.mu.Unlock()
		if got >= n {
			return r.all()
		}
		select {
		case <-more:
		case <-deadline:
			r.t.Fatalf("%d events have come, want %d: %v", got, n, r.tags())
		}
	}
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logBuffer is a log that can be read while it is written to.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// box is an outbox with its store.
type box struct {
	*audit.Outbox
	t     *testing.T
	meta  storage.Meta
	clock *clock
	log   *logBuffer
}

func openMeta(t *testing.T) storage.Meta {
	t.Helper()
	meta, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return meta
}

// newBox makes an outbox that does not run yet; its clock is a test's own.
func newBox(t *testing.T, meta storage.Meta, o audit.OutboxOptions, hooks ...audit.Webhook) *box {
	t.Helper()
	b := &box{t: t, meta: meta, clock: newClock(), log: new(logBuffer)}
	if o.Now == nil {
		o.Now = b.clock.now
	}
	o.Log = slog.New(slog.NewTextHandler(b.log, nil))
	out, err := audit.NewOutbox(meta, hooks, o)
	if err != nil {
		t.Fatal(err)
	}
	b.Outbox = out
	return b
}

// run runs the outbox until stop is called or the test ends.
func (b *box) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	b.t.Cleanup(stop)
	return stop
}

// append appends numbered events in one transaction, and has them delivered.
func (b *box) append(from, to int) {
	b.t.Helper()
	err := b.meta.Update(b.t.Context(), func(tx storage.Tx) error {
		for n := from; n < to; n++ {
			if err := b.Append(tx, numbered(n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Wake()
}

// appendEvent appends an event, and has it delivered.
func (b *box) appendEvent(e audit.Event) {
	b.t.Helper()
	if err := b.meta.Update(b.t.Context(), func(tx storage.Tx) error { return b.Append(tx, e) }); err != nil {
		b.t.Fatal(err)
	}
	b.Wake()
}

// settled waits until the figures of the first webhook are as wanted.
func (b *box) settled(what string, ok func(audit.WebhookStats) bool) audit.WebhookStats {
	b.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		s, err := b.Stats(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		if ok(s.Webhooks[0]) {
			return s.Webhooks[0]
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not %s: %+v\n%s", what, s, b.log)
		}
	}
}

func (b *box) empty() audit.WebhookStats {
	b.t.Helper()
	return b.settled("empty", func(s audit.WebhookStats) bool { return s.Pending == 0 })
}

// failedTimes waits until so many requests have failed and are accounted for.
func (b *box) failedTimes(n int64) {
	b.t.Helper()
	b.settled(fmt.Sprintf("failed %d times", n), func(s audit.WebhookStats) bool { return s.Failed >= n })
}

// numbers are the tags of numbered events.
func numbers(from, to int) (tags []string) {
	for n := from; n < to; n++ {
		tags = append(tags, fmt.Sprint("n", n))
	}
	return tags
}

// newLocal is a registry with a journal.
func newLocal(t *testing.T, meta storage.Meta, j registry.Journal) *registry.Local {
	t.Helper()
	blobs, err := fs.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	local, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	return local
}

// push pushes an image that name tells from others.
func push(t *testing.T, r registry.Registry, repo, name string, tags ...string) registry.Descriptor {
	t.Helper()
	config := digest.FromString("{}")
	if _, err := r.PushBlob(t.Context(), repo, config, strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config, Size: 2},
		Layers:      []ocispec.Descriptor{},
		Annotations: map[string]string{"name": name},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := audit.NewContext(t.Context(), &audit.Actor{Account: "ci", Source: "accounts", Key: "k1", Client: "192.0.2.1", Request: "r-" + name})
	pushed, err := r.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: digest.FromBytes(data), Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	return pushed.Descriptor
}
