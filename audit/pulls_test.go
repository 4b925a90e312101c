package audit_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

func pullsTo(r *receiver) audit.Webhook {
	w := hookTo(r)
	w.Events = []audit.Kind{audit.Pull}
	w.Match = func(repo string) bool { return strings.HasPrefix(repo, "team/") }
	return w
}

func TestPulls(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	b := newBox(t, meta, audit.OutboxOptions{}, pullsTo(r))
	b.run()
	local := audit.Pulls(newLocal(t, meta, audit.NewJournal(nil, b.Outbox)), b.Outbox)
	one, _ := push(t, local, "team/web", "one", "v1"), push(t, local, "other", "two", "v1")
	ctx := audit.NewContext(t.Context(), &audit.Actor{Account: "bob", Request: "r9"})
	get := func(repo string, ref registry.Reference, want error) {
		t.Helper()
		if _, _, err := local.Manifest(ctx, repo, ref); !errors.Is(err, want) {
			t.Fatal(err)
		}
	}
	get("team/web", registry.Reference{Tag: "v1"}, nil)
	get("other", registry.Reference{Tag: "v1"}, nil)                            // is not wanted
	get("team/web", registry.Reference{Tag: "v2"}, registry.ErrManifestUnknown) // is not there
	if _, err := local.StatManifest(ctx, "team/web", registry.Reference{Tag: "v1"}); err != nil {
		t.Fatal(err)
	}
	get("team/web", registry.Reference{Digest: one.Digest}, nil)
	got := r.wait(2)
	for i, tag := range []string{"v1", ""} {
		d := got[i]
		if d.Type != "dev.berth.pull" || d.Data.Repository != "team/web" || d.Data.Tag != tag || d.Data.Digest != string(one.Digest) ||
			d.Data.Size != one.Size || d.Data.Actor.Account != "bob" || d.Data.Request != "r9" {
			t.Errorf("%+v", d)
		}
	}
	b.empty()
	if n := len(r.all()); n != 2 {
		t.Errorf("%d events", n)
	}
}

// TestPullsEnd: the last pulls are written when Run ends.
func TestPullsEnd(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	b := newBox(t, meta, audit.OutboxOptions{}, pullsTo(r))
	local := audit.Pulls(newLocal(t, meta, nil), b.Outbox)
	push(t, local, "team/web", "one", "v1")
	stop := b.run()
	if _, _, err := local.Manifest(t.Context(), "team/web", registry.Reference{Tag: "v1"}); err != nil {
		t.Fatal(err)
	}
	stop()
	if s := b.settled("there", func(audit.WebhookStats) bool { return true }); s.Pending+s.Delivered != 1 {
		t.Errorf("%+v", s)
	}
}

// stuck is a store whose updates wait.
type stuck struct {
	storage.Meta
	release chan struct{}
}

func (s *stuck) Update(ctx context.Context, fn func(storage.Tx) error) error {
	<-s.release
	return s.Meta.Update(ctx, fn)
}

// TestPullsDoNotWait pulls more than there is room for while the store is stuck.
func TestPullsDoNotWait(t *testing.T) {
	meta, r := openMeta(t), newReceiver(t)
	plain := newLocal(t, meta, nil)
	push(t, plain, "team/web", "one", "v1")
	s := &stuck{meta, make(chan struct{})}
	b := newBox(t, s, audit.OutboxOptions{}, pullsTo(r))
	b.run()
	local := audit.Pulls(plain, b.Outbox)
	const most, more = 10_000, 500
	for range 2*most + more { // some may be on their way to the store
		if _, _, err := local.Manifest(t.Context(), "team/web", registry.Reference{Tag: "v1"}); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := b.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := stats.LostPulls; n < more || n > most+more {
		t.Errorf("%d lost", n)
	}
	close(s.release)
}

func TestPullsOfNobody(t *testing.T) {
	local := newLocal(t, openMeta(t), nil)
	if audit.Pulls(local, nil) != registry.Registry(local) {
		t.Error("a wrapper for nothing")
	}
	// Without a webhook for it nothing is kept.
	b := newBox(t, openMeta(t), audit.OutboxOptions{}, audit.Webhook{Name: "w", URL: "http://127.0.0.1:1/"})
	wrapped := audit.Pulls(local, b.Outbox)
	push(t, wrapped, "team/web", "one", "v1")
	ref := registry.Reference{Tag: "v1"}
	ctx := t.Context()
	plain := testing.AllocsPerRun(100, func() { _, _, _ = local.Manifest(ctx, "team/web", ref) })
	noted := testing.AllocsPerRun(100, func() { _, _, _ = wrapped.Manifest(ctx, "team/web", ref) })
	if noted > plain {
		t.Errorf("%v allocations instead of %v", noted, plain)
	}
	tags := slices.Collect(func(yield func(string) bool) {
		for tag, err := range wrapped.Tags(ctx, "team/web", "") {
			if err != nil || !yield(tag) {
				return
			}
		}
	})
	if !slices.Equal(tags, []string{"v1"}) {
		t.Errorf("%v", tags)
	}
}
