package audit_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func openPostgres(t *testing.T, dsn string) storage.Meta {
	t.Helper()
	meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return meta
}

// TestReplicas has three outboxes of a database take events from transactions that run
// at the same time: each event is sent once, by one of them at a time, and those of one
// writer in the order in which it wrote them.
func TestReplicas(t *testing.T) {
	dsn, r := postgrestest.Start(t), newReceiver(t)
	var sending atomic.Int64
	r.answers(func(w http.ResponseWriter, _ *http.Request) {
		if sending.Add(1) > 1 {
			t.Error("two events are sent at a time")
		}
		w.WriteHeader(http.StatusOK)
		sending.Add(-1)
	})
	const each = 60
	var writers sync.WaitGroup
	var boxes []*box
	for range 3 {
		b := newBox(t, openPostgres(t, dsn), audit.OutboxOptions{Now: time.Now}, hookTo(r))
		b.run()
		boxes = append(boxes, b)
	}
	for i, b := range boxes {
		for half := range 2 {
			writers.Go(func() {
				first := (2*i + half) * each
				for n := first; n < first+each; n++ {
					b.append(n, n+1)
				}
			})
		}
	}
	writers.Wait()
	r.wait(6 * each)
	boxes[0].empty()
	got := r.tags()
	place := map[string]int{}
	for i, tag := range got {
		if _, twice := place[tag]; twice {
			t.Errorf("%s came twice", tag)
		}
		place[tag] = i
	}
	for writer := range 6 {
		if tags := numbers(writer*each, (writer+1)*each); !slices.IsSortedFunc(tags, func(a, b string) int { return place[a] - place[b] }) {
			t.Errorf("the events of writer %d are out of order", writer)
		}
	}
	if len(got) != 6*each {
		t.Errorf("%d events came, want %d", len(got), 6*each)
	}
}

// TestCommittedLate has an event be sent whose number is lower than those of events that
// were sent before, as its transaction has taken longer.
func TestCommittedLate(t *testing.T) {
	dsn, r := postgrestest.Start(t), newReceiver(t)
	late, b := openPostgres(t, dsn), newBox(t, openPostgres(t, dsn), audit.OutboxOptions{Now: time.Now}, hookTo(r))
	b.run()
	drawn, proceed, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var once sync.Once
		done <- late.Update(t.Context(), func(tx storage.Tx) error {
			if err := b.Append(tx, numbered(0)); err != nil {
				return err
			}
			once.Do(func() {
				close(drawn)
				<-proceed
			})
			return nil
		})
	}()
	<-drawn
	for n := 1; n <= 5; n++ {
		b.append(n, n+1)
	}
	r.wait(5)
	b.empty()
	close(proceed)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.Wake()
	r.wait(6)
	b.empty()
	got := r.tags()
	slices.Sort(got)
	if !slices.Equal(got, numbers(0, 6)) {
		t.Errorf("%q came", got)
	}
}

// TestReplicaDies has a server take events and lose its database before it has told what
// it delivered: another one takes over when its time is over.
func TestReplicaDies(t *testing.T) {
	dsn, r, stuck := postgrestest.Start(t), newReceiver(t), newReceiver(t)
	release := make(chan struct{})
	stuck.answers(func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	dead := &failing{Meta: openPostgres(t, dsn)}
	one := newBox(t, dead, audit.OutboxOptions{}, hookTo(stuck))
	two := newBox(t, openPostgres(t, dsn), audit.OutboxOptions{}, hookTo(r))
	one.run()
	one.append(0, 3)
	stuck.wait(1)
	dead.fail(true)
	two.run()
	two.append(3, 4)
	if n := len(r.all()); n != 0 {
		t.Errorf("%d events are sent while another server may send them", n)
	}
	two.clock.advance(2 * time.Minute)
	two.Wake()
	r.wait(4)
	two.empty()
	if got := r.tags(); !slices.Equal(got, numbers(0, 4)) {
		t.Errorf("%q came", got)
	}
}

// TestInstance has each line say which server has written it, however long its name is.
func TestInstance(t *testing.T) {
	var out bytes.Buffer
	for _, name := range []string{"a-1", strings.Repeat("x", 5000), ""} {
		l := newLog(t, audit.LogOptions{Output: "stdout", Stdout: &out, Instance: name})
		l.Record(t.Context(), numbered(1))
	}
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], `"instance":"a-1"`) || !strings.Contains(lines[1], `"instance":"xxx`) || len(lines[1]) > 500 || strings.Contains(lines[2], "instance") {
		t.Errorf("%s", out.String())
	}
}
