package audit_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/storage"
)

// TestLateNumbers has events come with lower numbers than those that are just being
// sent, as they do where several processes write: nobody else begins with them
// meanwhile, and all are sent once.
func TestLateNumbers(t *testing.T) {
	r, meta := newReceiver(t), openMeta(t)
	// Two outboxes of one store that do not know that they are of one process.
	shared := struct{ storage.Meta }{meta}
	one := newBox(t, shared, audit.OutboxOptions{}, hookTo(r))
	two := newBox(t, shared, audit.OutboxOptions{}, hookTo(r))
	from := func(n int64) {
		t.Helper()
		if err := meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.Counters.Put(tx, storage.Key(storage.CountEvents), storage.Counter{N: n})
		}); err != nil {
			t.Fatal(err)
		}
	}
	sending, proceed := make(chan struct{}), make(chan struct{})
	var first sync.Once
	r.answers(func(w http.ResponseWriter, _ *http.Request) {
		first.Do(func() {
			close(sending)
			<-proceed
		})
		w.WriteHeader(http.StatusOK)
	})
	from(1000)
	one.append(0, 5)
	one.run()
	<-sending
	from(0)
	two.append(5, 8)
	two.run()
	// The other one comes to look, and finds that somebody is sending.
	for range 20 {
		two.Wake()
		if s, err := two.Stats(t.Context()); err != nil || s.Webhooks[0].Delivered > 0 {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	close(proceed)
	one.settled("empty", func(s audit.WebhookStats) bool {
		one.Wake()
		return s.Pending == 0
	})
	tags := r.tags()
	slices.Sort(tags)
	if want := numbers(0, 8); !slices.Equal(tags, want) {
		t.Errorf("got %q, want %q", tags, want)
	}
	if err := meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Outbox.Scan(tx, nil, nil) {
			t.Errorf("there is still %q, %v", e.Key, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
