package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// shared hides that nobody else writes to a store.
type shared struct{ storage.Meta }

// hookTo is a webhook for all events of a receiver.
func hookTo(r *receiver) audit.Webhook {
	return audit.Webhook{Name: "w", URL: r.URL, Secret: secret}
}

// TestManyEvents delivers 10,000 events in order, once.
func TestManyEvents(t *testing.T) {
	const n = 10_000
	r := newReceiver(t)
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, hookTo(r))
	b.run()
	for i := 0; i < n; i += 250 {
		b.append(i, i+250)
	}
	r.wait(n)
	if s := b.empty(); s.Delivered != n || s.Failed != 0 || s.Dropped != 0 || !s.Oldest.IsZero() {
		t.Errorf("%+v", s)
	}
	if got := r.tags(); !slices.Equal(got, numbers(0, n)) {
		t.Error("they do not come once and in order")
	}
}

// TestRollback: what was rolled back is not told.
func TestRollback(t *testing.T) {
	r := newReceiver(t)
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, hookTo(r))
	b.run()
	err := b.meta.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(b.Append(tx, numbered(0)), errRollback)
	})
	if !errors.Is(err, errRollback) {
		t.Fatal(err)
	}
	b.append(1, 2)
	if got := r.wait(1)[0].Data.Tag; got != "n1" {
		t.Errorf("%s has come", got)
	}
}

// TestReceiverIsDown: events wait, longer each time, and come in order.
func TestReceiverIsDown(t *testing.T) {
	r := newReceiver(t)
	r.answers(status(http.StatusInternalServerError))
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, hookTo(r))
	b.run()
	b.append(0, 3)
	const tries = 14
	for i := range tries {
		b.failedTimes(int64(i + 1))
		shortest := min(time.Second<<i, 10*time.Minute)
		b.clock.advance(shortest - time.Millisecond)
		b.append(3+i, 4+i) // does not make it try earlier
		if n := len(r.all()); n != i+1 {
			t.Fatalf("%d tries, want %d", n, i+1)
		}
		if i == tries-1 {
			r.answers(nil)
		}
		b.clock.advance(shortest/4 + 2*time.Millisecond)
		b.Wake()
	}
	got := r.wait(tries + tries + 3)
	b.empty()
	if tags := r.tags()[tries:]; !slices.Equal(tags, numbers(0, tries+3)) {
		t.Errorf("%v have come", tags)
	}
	for _, d := range got[:tries+1] {
		if d.ID != got[0].ID {
			t.Errorf("id %s, then %s", got[0].ID, d.ID)
		}
	}
	if log := b.log.String(); !strings.Contains(log, "answer 500 Internal Server Error") || !strings.Contains(log, "takes events again") {
		t.Errorf("log: %s", log)
	}
}

// TestFailures lets a receiver fail in each way once, and take the event then.
func TestFailures(t *testing.T) {
	cut := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}
	header := func(code int, name, value string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(name, value)
			w.WriteHeader(code)
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		wait   time.Duration
	}{
		"429":               {header(429, "Retry-After", "90"), 90 * time.Second},
		"503 until a date":  {header(503, "Retry-After", newClock().now().Add(time.Hour).Format(http.TimeFormat)), time.Hour},
		"503 for years":     {header(503, "Retry-After", "9999999999"), 24 * time.Hour},
		"410":               {status(410), 10 * time.Minute},
		"400":               {status(400), 10 * time.Minute},
		"nothing":           {cut(""), time.Second},
		"cut in the status": {cut("HTTP/1.1 20"), time.Second},
		"cut in the header": {cut("HTTP/1.1 200 OK\r\nContent-Le"), time.Second},
		"not HTTP":          {cut("220 mail.example.com ESMTP\r\n"), time.Second},
		"a huge header":     {header(200, "X", strings.Repeat("x", 1<<20)), time.Second},
		"silence":           {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t)
			r.answers(c.answer)
			hook := hookTo(r)
			hook.Timeout = 10 * time.Second
			if name == "silence" {
				hook.Timeout = 50 * time.Millisecond
			}
			b := newBox(t, openMeta(t), audit.OutboxOptions{}, hook)
			b.run()
			b.append(0, 2)
			b.failedTimes(1)
			r.answers(nil)
			b.clock.advance(c.wait - time.Millisecond)
			b.append(2, 3)
			if n := len(r.all()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
			b.clock.advance(c.wait/4 + 2*time.Millisecond)
			b.Wake()
			r.wait(4)
			if got := r.tags(); !slices.Equal(got, []string{"n0", "n0", "n1", "n2"}) {
				t.Errorf("%v", got)
			}
		})
	}
}

// TestEndlessAnswer: who answers 200 has the event, whatever follows.
func TestEndlessAnswer(t *testing.T) {
	r := newReceiver(t)
	r.answers(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
				return
			}
		}
	})
	hook := hookTo(r)
	hook.Timeout = time.Hour
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, hook)
	b.run()
	b.append(0, 5)
	r.wait(5)
	if s := b.empty(); s.Delivered != 5 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSlowReceiver: pushes end while the receiver has answered nothing.
func TestSlowReceiver(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	release := make(chan struct{})
	r.answers(func(http.ResponseWriter, *http.Request) { <-release })
	b := newBox(t, meta, audit.OutboxOptions{}, hookTo(r))
	b.run()
	local := newLocal(t, meta, audit.NewJournal(nil, b.Outbox))
	push(t, local, "team/web", "first")
	r.wait(1)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				push(t, local, "team/web", fmt.Sprint(w, "-", i), fmt.Sprint("v", w))
			}
		})
	}
	wg.Wait()
	if n := len(r.all()); n != 1 {
		t.Errorf("%d events came before the first was answered", n)
	}
	close(release)
	r.answers(nil)
	r.wait(1 + 4*25*2)
	b.empty()
}

// TestTwoOutboxes run on a store that both write to: one of them delivers at a
// time.
func TestTwoOutboxes(t *testing.T) {
	const n = 3000
	r := newReceiver(t)
	meta := shared{mem.NewMeta()}
	one := newBox(t, meta, audit.OutboxOptions{Now: time.Now}, hookTo(r))
	two := newBox(t, meta, audit.OutboxOptions{Now: time.Now}, hookTo(r))
	one.run()
	two.run()
	for i := range n / 10 {
		b := one
		if i%2 == 1 {
			b = two
		}
		b.append(i*10, i*10+10)
	}
	r.wait(n)
	one.empty()
	if got := r.tags(); !slices.Equal(got, numbers(0, n)) {
		t.Errorf("%d events came, or not in order", len(got))
	}
}

// TestTakeOver: what a process has taken is not delivered by another one until it
// had the time to, and is if it has crashed.
func TestTakeOver(t *testing.T) {
	meta := shared{openMeta(t)}
	r, slow := newReceiver(t), newReceiver(t)
	release := make(chan struct{})
	slow.answers(func(http.ResponseWriter, *http.Request) { <-release })
	one := newBox(t, meta, audit.OutboxOptions{}, hookTo(slow))
	two := newBox(t, meta, audit.OutboxOptions{}, hookTo(r))
	one.run()
	one.append(0, 3)
	slow.wait(1)
	two.run()
	two.append(3, 4)
	two.clock.advance(time.Minute)
	two.Wake()
	two.append(4, 5)
	if n := len(r.all()); n != 0 {
		t.Errorf("%d events were delivered twice at once", n)
	}
	two.clock.advance(time.Minute)
	two.Wake()
	r.wait(5)
	two.empty()
	if got := r.tags(); !slices.Equal(got, numbers(0, 5)) {
		t.Errorf("%v", got)
	}
	// The first one was only slow: it takes nothing back, and both go on.
	one.clock.advance(2 * time.Minute)
	close(release)
	two.append(5, 6)
	two.empty()
	all := append(r.tags(), slow.tags()...)
	slices.Sort(all)
	if want := append([]string{"n0"}, numbers(0, 6)...); !slices.Equal(all, want) {
		t.Errorf("%v, want %v", all, want)
	}
}

// TestStopInTheMiddle ends Run while an event is being sent: it is sent again at
// once when it runs anew, also on a shared store.
func TestStopInTheMiddle(t *testing.T) {
	meta, r := shared{openMeta(t)}, newReceiver(t)
	hang := make(chan struct{})
	r.answers(func(_ http.ResponseWriter, req *http.Request) {
		if len(r.all()) == 2 {
			select {
			case <-hang:
			case <-req.Context().Done():
			}
		}
	})
	b := newBox(t, meta, audit.OutboxOptions{}, hookTo(r))
	stop := b.run()
	b.append(0, 3)
	r.wait(2)
	stop()
	close(hang)
	if s := b.settled("given back", func(audit.WebhookStats) bool { return true }); s.Pending != 2 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	newBox(t, meta, audit.OutboxOptions{}, hookTo(r)).run()
	r.wait(4)
	if got := r.tags(); !slices.Equal(got, []string{"n0", "n1", "n1", "n2"}) {
		t.Errorf("%v", got)
	}
}

// TestTooMany drops the oldest, and does not try more often because of it.
func TestTooMany(t *testing.T) {
	r := newReceiver(t)
	r.answers(status(http.StatusBadGateway))
	b := newBox(t, openMeta(t), audit.OutboxOptions{MaxPending: 10}, hookTo(r))
	b.run()
	b.append(0, 5)
	b.failedTimes(1)
	for i := range 20 {
		b.append(5+i, 6+i)
	}
	if s := b.settled("full", func(audit.WebhookStats) bool { return true }); s.Pending != 10 || s.Dropped != 15 || s.Failed != 1 {
		t.Errorf("%+v", s)
	}
	if n := len(r.all()); n != 1 {
		t.Errorf("%d tries", n)
	}
	r.answers(nil)
	b.clock.advance(2 * time.Minute)
	b.Wake()
	r.wait(11)
	if got := r.tags()[1:]; !slices.Equal(got, numbers(15, 25)) {
		t.Errorf("%v", got)
	}
	if s := b.empty(); s.Dropped != 15 {
		t.Errorf("%+v", s)
	}
	if log := b.log.String(); !strings.Contains(log, "were dropped") {
		t.Errorf("log: %s", log)
	}
}

// TestDropWhatIsBeingSent: events are dropped while their delivery is under way.
func TestDropWhatIsBeingSent(t *testing.T) {
	r := newReceiver(t)
	release := make(chan struct{})
	r.answers(func(http.ResponseWriter, *http.Request) { <-release })
	b := newBox(t, openMeta(t), audit.OutboxOptions{MaxPending: 3}, hookTo(r))
	b.run()
	b.append(0, 3)
	r.wait(1)
	b.append(3, 8)
	close(release)
	r.wait(6)
	if s := b.empty(); s.Dropped != 5 {
		t.Errorf("%+v", s)
	}
	if got := r.tags(); !slices.IsSorted(got) || got[len(got)-1] != "n7" {
		t.Errorf("%v", got)
	}
}

func TestTooOld(t *testing.T) {
	r := newReceiver(t)
	r.answers(status(http.StatusBadGateway))
	b := newBox(t, openMeta(t), audit.OutboxOptions{MaxAge: time.Hour}, hookTo(r))
	b.append(0, 2500)
	b.run()
	b.failedTimes(1)
	b.clock.advance(time.Hour + time.Second)
	r.answers(nil)
	b.append(2500, 2502)
	r.wait(3)
	if s := b.empty(); s.Dropped != 2500 {
		t.Errorf("%+v", s)
	}
	if got := r.tags()[1:]; !slices.Equal(got, numbers(2500, 2502)) {
		t.Errorf("%v", got)
	}
}

// TestSetHooks changes webhooks while one of them fails.
func TestSetHooks(t *testing.T) {
	meta, bad, good := openMeta(t), newReceiver(t), newReceiver(t)
	bad.answers(status(http.StatusNotFound))
	gone := audit.Webhook{Name: "gone", URL: bad.URL, Secret: secret}
	b := newBox(t, meta, audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: bad.URL, Secret: secret}, gone)
	b.run()
	b.append(0, 1500)
	bad.wait(2)
	b.failedTimes(1)
	// The URL was wrong; the other webhook is not wanted any more.
	if err := b.SetHooks([]audit.Webhook{hookTo(good)}); err != nil {
		t.Fatal(err)
	}
	good.wait(1500)
	if s := b.empty(); s.Failed != 1 || s.Delivered != 1500 {
		t.Errorf("%+v", s)
	}
	if err := meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Outbox.Scan(tx, nil, nil) {
			return fmt.Errorf("there is %q, %w", e.Key, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// It comes back, and has nothing of what it had.
	bad.answers(nil)
	if err := b.SetHooks([]audit.Webhook{hookTo(good), gone}); err != nil {
		t.Fatal(err)
	}
	before := len(bad.all())
	b.append(1500, 1501)
	bad.wait(before + 1)
	if got := bad.tags()[before:]; !slices.Equal(got, numbers(1500, 1501)) {
		t.Errorf("%v", got)
	}
	if err := b.SetHooks(nil); err != nil {
		t.Fatal(err)
	}
	b.append(1501, 1502)
	if s, err := b.Stats(t.Context()); err != nil || len(s.Webhooks) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestGoneWhileDown: what waits for a webhook that was removed between two runs is
// removed, and what waits for others is not.
func TestGoneWhileDown(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	named := func(name string) audit.Webhook { return audit.Webhook{Name: name, URL: r.URL, Secret: secret} }
	b := newBox(t, meta, audit.OutboxOptions{}, named("a"), named("b"), named("b.c"), named("z"))
	b.append(0, 2)
	b = newBox(t, meta, audit.OutboxOptions{}, named("b"))
	b.run()
	r.wait(2)
	b.empty()
	b = newBox(t, meta, audit.OutboxOptions{}, named("a"), named("b"), named("b.c"), named("z"))
	s, err := b.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range s.Webhooks {
		if w.Pending != 0 || !w.Oldest.IsZero() {
			t.Errorf("%+v", w)
		}
	}
	if n := len(r.all()); n != 2 {
		t.Errorf("%d events came", n)
	}
}

// TestOutboxSurvivesKills kills a process that appends and delivers, again and
// again. All that it has said to be durable is delivered, in order, and nothing that
// was rolled back is.
func TestOutboxSurvivesKills(t *testing.T) {
	path, r := t.TempDir()+"/meta.db", newReceiver(t)
	said, next := map[string]bool{}, 0
	for round := range 6 {
		cmd := child(t, "outbox", path, urlEnv+"="+r.URL, fromEnv+"="+strconv.Itoa(next))
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(stdout)
		for lines := 0; scan.Scan(); lines++ {
			n, err := strconv.Atoi(scan.Text())
			if err != nil {
				t.Fatal(err)
			}
			said["n"+scan.Text()], next = true, n+3 // the one after it may be durable
			if lines == 60+round*23 {
				_ = cmd.Process.Kill() // what it has said until then is read still
			}
		}
		_ = cmd.Wait()
	}
	meta, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	now := time.Now() // what the last one has taken is delivered without waiting for it
	b := newBox(t, meta, audit.OutboxOptions{Now: func() time.Time { return now }}, hookTo(r))
	stop := b.run()
	b.empty()
	stop()
	seen, last := map[string]bool{}, -1
	for _, tag := range r.tags() {
		n, _ := strconv.Atoi(tag[1:])
		switch {
		case n%3 == 2:
			t.Errorf("%s was rolled back", tag)
		case !seen[tag] && n < last:
			t.Errorf("%s comes after %d", tag, last)
		}
		seen[tag], last = true, max(last, n)
	}
	for tag := range said {
		if !seen[tag] {
			t.Errorf("%s is lost", tag)
		}
	}
	t.Logf("%d events said to be durable, %d requests", len(said), len(r.tags()))
}

// TestStoreFails: the outbox goes on when the store does.
func TestStoreFails(t *testing.T) {
	r := newReceiver(t)
	meta := &failing{Meta: openMeta(t)}
	b := newBox(t, meta, audit.OutboxOptions{}, hookTo(r))
	b.append(0, 2)
	meta.fail(true)
	b.run()
	for !strings.Contains(b.log.String(), "cannot be read") {
		time.Sleep(time.Millisecond)
	}
	meta.fail(false)
	b.Wake()
	r.wait(2)
	b.empty()
}

// failing is a store that fails when it is told to.
type failing struct {
	storage.Meta
	mu  sync.Mutex
	bad bool
}

func (f *failing) fail(bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = bad
}

func (f *failing) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad {
		return storage.ErrNoSpace
	}
	return nil
}

func (f *failing) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Meta.Update(ctx, fn)
}
