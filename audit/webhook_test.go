package audit_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/audit"
)

// TestJournal pushes, moves and deletes in a real registry, and compares what the
// log and a webhook are told.
func TestJournal(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	path := filepath.Join(t.TempDir(), "audit.log")
	l := newLog(t, audit.LogOptions{Output: path})
	b := newBox(t, meta, audit.OutboxOptions{Source: "https://registry.example.com"},
		audit.Webhook{Name: "w", URL: r.URL, Secret: secret})
	b.run()
	local := newLocal(t, meta, audit.NewJournal(l, b.Outbox))
	ctx := t.Context()

	one := push(t, local, "team/web", "one", "v1", "latest")
	push(t, local, "team/web", "one", "v1")
	two := push(t, local, "team/web", "two", "latest")
	push(t, local, "team/web", "three")
	if err := local.DeleteTag(ctx, "team/web", "v1"); err != nil {
		t.Fatal(err)
	}
	if err := local.DeleteManifest(ctx, "team/web", two.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := local.PushBlob(ctx, "team/web", digest.FromString("x"), strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := local.DeleteBlob(ctx, "team/web", digest.FromString("x")); err != nil {
		t.Fatal(err)
	}
	d1, d2, dx := string(one.Digest), string(two.Digest), digest.FromString("x").String()
	want := []struct{ event, tag, digest, was string }{
		{"push", "v1", d1, ""},
		{"tag", "v1", d1, ""},
		{"tag", "latest", d1, ""},
		{"push", "v1", d1, ""}, // nothing has moved
		{"push", "latest", d2, ""},
		{"tag", "latest", d2, d1},
		{"push", "", "", ""},
		{"delete", "v1", d1, ""},
		{"delete", "latest", d2, ""},
		{"delete", "", d2, ""},
		{"delete", "", dx, ""},
	}
	got, lines := r.wait(len(want)), linesOf(t, path)
	if len(got) != len(want) || len(lines) != len(want) {
		t.Fatalf("%d events and %d lines, want %d", len(got), len(lines), len(want))
	}
	for i, w := range want {
		e, line := got[i], lines[i]
		subject := "team/web@" + e.Data.Digest
		if w.tag != "" {
			subject = "team/web:" + w.tag
		}
		if e.Type != "dev.berth."+w.event || e.Subject != subject || e.Source != "https://registry.example.com" ||
			e.Data.Repository != "team/web" || e.Data.Tag != w.tag || w.digest != "" && e.Data.Digest != w.digest || e.Data.Was != w.was {
			t.Errorf("event %d is %+v, want %+v", i, e, w)
		}
		// The log says the same, in the same words.
		for name, value := range map[string]string{
			"event": w.event, "repository": "team/web", "tag": w.tag, "digest": e.Data.Digest, "was": w.was,
			"mediaType": e.Data.MediaType, "account": e.Data.Actor.Account, "request": e.Data.Request, "client": e.Data.Client,
		} {
			if s, _ := line[name].(string); s != value {
				t.Errorf("line %d says %s %q, not %q", i, name, s, value)
			}
		}
	}
	if e := got[0].Data; !slices.Equal(e.Tags, []string{"v1", "latest"}) || e.Size != one.Size || e.MediaType != one.MediaType ||
		e.Actor.Account != "ci" || e.Actor.Source != "accounts" || e.Actor.Key != "k1" || e.Client != "192.0.2.1" || e.Request != "r-one" {
		t.Errorf("push: %+v", e)
	}
	ids := map[string]bool{}
	for _, e := range got {
		ids[e.ID] = true
	}
	if len(ids) != len(want) {
		t.Errorf("%d ids for %d events", len(ids), len(want))
	}
	b.empty()
}

// TestEventOfRefusedPush: nothing is told of a push that the registry refuses.
func TestEventOfRefusedPush(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	b := newBox(t, meta, audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: r.URL, Secret: secret})
	b.run()
	local := newLocal(t, meta, audit.NewJournal(nil, b.Outbox))
	push(t, local, "team/web", "one", "v1")
	local.SetImmutable(func(_, tag string) bool { return tag == "v1" })
	if err := local.DeleteTag(t.Context(), "team/web", "v1"); err == nil {
		t.Fatal("an immutable tag was removed")
	}
	push(t, local, "team/web", "two", "v2")
	for _, e := range r.wait(4) {
		if e.Type == "dev.berth.delete" {
			t.Errorf("%+v", e)
		}
	}
}

func TestWebhooksChoose(t *testing.T) {
	meta := openMeta(t)
	all, deletes, team := newReceiver(t), newReceiver(t), newReceiver(t)
	team.secret = ""
	b := newBox(t, meta, audit.OutboxOptions{},
		audit.Webhook{Name: "all", URL: all.URL, Secret: secret},
		audit.Webhook{Name: "deletes", URL: deletes.URL, Secret: secret, Events: []audit.Kind{audit.Delete}},
		audit.Webhook{Name: "team", URL: team.URL, Match: func(repo string) bool { return repo == "team/web" }})
	b.run()
	local := newLocal(t, meta, audit.NewJournal(nil, b.Outbox))
	push(t, local, "team/web", "one", "v1")
	push(t, local, "other", "two", "v1")
	if err := local.DeleteTag(t.Context(), "other", "v1"); err != nil {
		t.Fatal(err)
	}
	types := func(list []delivery) (s string) {
		for _, d := range list {
			s += " " + strings.TrimPrefix(d.Type, "dev.berth.") + " " + d.Data.Repository
		}
		return s
	}
	for r, want := range map[*receiver]string{
		all:     " push team/web tag team/web push other tag other delete other",
		deletes: " delete other",
		team:    " push team/web tag team/web",
	} {
		if got := types(r.wait(strings.Count(want, " ") / 2)); got != want {
			t.Errorf("got%s, want%s", got, want)
		}
	}
}

func TestBadWebhooks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	const u = "http://127.0.0.1/"
	bad := map[string]audit.Webhook{
		"no name":        {URL: u},
		"a zero byte":    {Name: "a\x00b", URL: u},
		"a long name":    {Name: strings.Repeat("a", 65), URL: u},
		"no URL":         {Name: "w"},
		"a file":         {Name: "w", URL: "file:///hunter2"},
		"no host":        {Name: "w", URL: "https:///hunter2"},
		"no URL at all":  {Name: "w", URL: "http://user:hunter2@[::1/"},
		"short":          {Name: "w", URL: u, Secret: "hunter2"},
		"short base64":   {Name: "w", URL: u, Secret: "whsec_aHVudGVyMg=="},
		"no base64":      {Name: "w", URL: u, Secret: "whsec_hunter2 is no base64, as it has spaces"},
		"no kind":        {Name: "w", URL: u, Events: []audit.Kind{"hunter"}},
		"login":          {Name: "w", URL: u, Events: []audit.Kind{audit.Login}},
		"no file":        {Name: "w", URL: u, CA: file + "x"},
		"no certificate": {Name: "w", URL: u, CA: file},
		"no time":        {Name: "w", URL: u, Timeout: -1},
	}
	for name, w := range bad {
		_, err := audit.NewOutbox(openMeta(t), []audit.Webhook{w}, audit.OutboxOptions{})
		if err == nil {
			t.Errorf("%s is taken", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: u})
	if err := b.SetHooks(slices.Collect(maps.Values(bad))); err == nil {
		t.Error("bad webhooks are set")
	}
	if err := b.SetHooks([]audit.Webhook{{Name: "a", URL: u}, {Name: "a", URL: u}}); err == nil {
		t.Error("two of a name")
	}
	if s, err := b.Stats(t.Context()); err != nil || len(s.Webhooks) != 1 || s.Webhooks[0].Name != "w" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := audit.NewOutbox(openMeta(t), nil, audit.OutboxOptions{Source: ":"}); err == nil {
		t.Error("a source that is no URI")
	}
}

// TestRawSecret signs with a text as it is.
func TestRawSecret(t *testing.T) {
	r := newReceiver(t)
	r.secret = "whsec_b3BlbiBzZXNhbWUsIHBsZWFzZSBvcGVuIG5vdw=="
	b := newBox(t, openMeta(t), audit.OutboxOptions{},
		audit.Webhook{Name: "w", URL: r.URL, Secret: "open sesame, please open now"})
	b.run()
	b.append(0, 1)
	r.wait(1)
}

func TestWebhookTLS(t *testing.T) {
	r := newReceiver(t)
	server := httptest.NewUnstartedServer(r)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: server.URL, Secret: secret})
	b.run()
	b.append(0, 1)
	b.failedTimes(1) // it is not trusted
	if n := len(r.all()); n != 0 {
		t.Errorf("%d events came", n)
	}
	if err := b.SetHooks([]audit.Webhook{{Name: "w", URL: server.URL, Secret: secret, CA: ca}}); err != nil {
		t.Fatal(err)
	}
	r.wait(1)
}

// TestNoRedirect: a receiver cannot have events sent to somebody else.
func TestNoRedirect(t *testing.T) {
	r, other := newReceiver(t), newReceiver(t)
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		r.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", other.URL)
			w.WriteHeader(code)
		})
		b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: r.URL, Secret: secret})
		stop := b.run()
		b.append(0, 1)
		b.failedTimes(1)
		stop()
	}
	if n := len(other.all()); n != 0 {
		t.Errorf("%d events went elsewhere", n)
	}
}

// TestSecretsStayOut greps the log of failures of all kinds for what no log may
// hold.
func TestSecretsStayOut(t *testing.T) {
	r := newReceiver(t)
	r.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://hunter2/")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "hunter2")
	})
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path, u.RawQuery = url.UserPassword("u", "hunter2"), "/hunter2", "token=hunter2"
	dead := *u
	dead.Host = "127.0.0.1:1"
	for _, target := range []url.URL{*u, dead} {
		b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: target.String(), Secret: secret})
		stop := b.run()
		b.append(0, 1)
		b.failedTimes(1)
		stop()
		log := b.log.String()
		if log == "" || strings.Contains(log, "hunter2") || strings.Contains(log, secret) || strings.Contains(log, secret[6:]) {
			t.Errorf("log: %s", log)
		}
	}
}

// TestSignature compares with the example that implementations of Standard
// Webhooks share.
func TestSignature(t *testing.T) {
	const example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	const sign = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	got, err := audit.Sign(example, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if err != nil || got != sign {
		t.Errorf("%s, %v, want %s", got, err, sign)
	}
}

func TestDelay(t *testing.T) {
	for _, c := range []struct {
		tries int
		err   error
		want  time.Duration
	}{
		{0, io.EOF, time.Second},
		{1, audit.Refused(500), 2 * time.Second},
		{9, audit.Refused(429), 512 * time.Second},
		{10, audit.Refused(408), 10 * time.Minute},
		{1 << 30, audit.Refused(503), 10 * time.Minute},
		{0, audit.Refused(404), 10 * time.Minute},
		{0, audit.Refused(410), 10 * time.Minute},
		{0, audit.Refused(301), 10 * time.Minute},
	} {
		for range 100 {
			if d := audit.Delay(c.tries, c.err); d < c.want || d > c.want*5/4 {
				t.Errorf("after %d tries and %v: %v, want %v", c.tries, c.err, d, c.want)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-5": 0, "1.5": 0, "soon": 0,
		"99999999999999999999999": 24 * time.Hour, "9223372036854775807": 24 * time.Hour,
		"Thu, 26 Nov 2026 12:01:00 GMT": time.Minute,
		"Thu, 26 Nov 2026 11:01:00 GMT": 0,
		"Fri, 31 Dec 9999 23:59:59 GMT": 24 * time.Hour,
	} {
		if got := audit.RetryAfter(s, now); got != want {
			t.Errorf("%q is %v, want %v", s, got, want)
		}
	}
}

// TestEventsAreBounded: what clients send does not make what is stored large.
func TestEventsAreBounded(t *testing.T) {
	r := newReceiver(t)
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: r.URL, Secret: secret})
	b.run()
	long := strings.Repeat("\xff\n\"", 100_000)
	e := audit.Event{Kind: audit.Push, Repo: long, Tag: long, Tags: slices.Repeat([]string{long}, 1000), Media: long, Actor: audit.Actor{Account: long, Request: long}}
	b.appendEvent(e)
	got := r.wait(1)[0]
	if text, _ := json.Marshal(got); len(text) > 50_000 {
		t.Errorf("%d bytes", len(text))
	}
}
