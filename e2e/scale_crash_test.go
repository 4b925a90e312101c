package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
)

const (
	scaleRounds = 8
	// scaleClaim is longer than a lease holds where servers share the metadata, whatever
	// the configuration says, and than what a dead one was just deleting is left to it: the
	// metadata is made older by it after each round.
	scaleClaim = 20 * time.Minute
	// scaleEager is eager for servers that collect only by command: when their clients and
	// the commands have ended, nobody deletes anything.
	scaleEager = "gc: {grace: 20ms, lease: 2s, history: 0s, interval: 1h}\n"
)

// TestScaleKilled is TestCollectKilled for three servers that share S3 and PostgreSQL,
// each of which is killed at random: what tags name is there, whichever server is asked,
// with all that it needs and all that refers to it, and in the end nothing else is.
func TestScaleKilled(t *testing.T) {
	t.Parallel()
	t.Logf("seed %d: repeat with -seed", *seed)
	c := &scaleCrasher{
		t: t, rand: rand.New(rand.NewPCG(*seed, 0)), wounds: map[string]int{},
		model: &tagModel{tags: map[pushedTag][]digest.Digest{}, signed: map[digest.Digest][]digest.Digest{}},
		on:    berthtest.StartReplicas(t, 3, berthtest.Options{Config: scaleEager, Env: []string{noRedirect, "BERTH_LOG_ACCESS=false"}}),
	}
	c.meta = openMeta(t, c.on.Postgres.DSN())
	deadline := time.Now().Add(*soak)
	for ; c.round < scaleRounds || time.Now().Before(deadline); c.round++ {
		c.work()
		if c.check(); t.Failed() {
			t.Fatalf("in round %d", c.round)
		}
		age(t, c.meta, scaleClaim)
	}
	t.Logf("%d rounds, in which was killed: %v", c.round, c.wounds)
	c.settle()
}

// scaleCrasher runs clients against replicas, and kills what these consist of.
type scaleCrasher struct {
	t      *testing.T
	rand   *rand.Rand
	on     *berthtest.Replicas
	meta   storage.Meta // that they share
	model  *tagModel
	round  int
	wounds map[string]int // how often what was killed
	probes int            // blobs that were pushed to see whether that works again
}

// work lets clients and collections work while something is killed under them, and
// started again.
func (c *scaleCrasher) work() {
	c.t.Helper()
	var hurt, done atomic.Bool
	var working sync.WaitGroup
	for i := range sweptClients {
		client := &sweptClient{
			name: fmt.Sprint("c", i), round: c.round, wire: newWire(c.on.URL), model: c.model,
			rand: rand.New(rand.NewPCG(*seed, uint64(1+c.round*sweptClients+i))),
		}
		working.Go(func() {
			for !done.Load() {
				// After an error its tags are where nobody knows: it is of no more use.
				if err := client.step(); err != nil {
					if !hurt.Load() || !excusable(err) {
						c.t.Errorf("round %d, client %d, while something was killed: %t: %v", c.round, i, hurt.Load(), err)
					}
					return
				}
			}
		})
	}
	for _, s := range c.on.Servers {
		working.Go(func() {
			for !done.Load() {
				if _, stderr, err := s.Berth("gc").Try(); err != nil && !hurt.Load() {
					c.t.Errorf("round %d: gc: %v: %s", c.round, err, stderr)
				}
			}
		})
	}
	c.pause(100, 900)
	hurt.Store(true)
	c.wound()
	c.pause(0, 600)
	done.Store(true)
	working.Wait()
}

// excusable says whether a client may see an error while something is killed: a
// connection that ends, or an answer that says clearly that the fault is the server's.
func excusable(err error) bool {
	if a, answered := errors.AsType[*unexpected](err); answered {
		return a.got.status >= http.StatusInternalServerError && a.got.clear() == nil
	}
	return true
}

func (c *scaleCrasher) pause(least, most int) {
	time.Sleep(time.Duration(least+c.rand.IntN(most-least)) * time.Millisecond)
}

// wound kills something, and starts it again after a while.
func (c *scaleCrasher) wound() {
	c.t.Helper()
	victim := c.rand.IntN(len(c.on.Servers))
	server := func() func() {
		c.on.Kill(victim)
		return func() { c.on.Restart(victim) }
	}
	database := func() func() {
		c.on.Postgres.Kill()
		return c.on.Postgres.Start
	}
	bucket := func() func() {
		c.on.S3.Kill()
		return c.on.S3.Start
	}
	all := func() func() {
		for i := range c.on.Servers {
			c.on.Kill(i)
		}
		return func() {
			for i := range c.on.Servers {
				c.on.Restart(i)
			}
		}
	}
	kinds := []struct {
		name  string
		kills []func() (mend func())
	}{
		{"a server", []func() func(){server}},
		{"the database", []func() func(){database}},
		{"the bucket", []func() func(){bucket}},
		{"the database and a server", []func() func(){database, server}},
		{"the bucket and a server", []func() func(){bucket, server}},
		{"all servers", []func() func(){all}},
	}
	k := kinds[(c.round+int(*seed%uint64(len(kinds))))%len(kinds)]
	c.wounds[k.name]++
	var mends []func()
	for _, kill := range k.kills {
		mends = append(mends, kill())
		c.pause(0, 300)
	}
	for _, mend := range mends {
		mend()
	}
}

// check reads all that tags lead to from one server after the other, and that the lists
// name nothing else.
func (c *scaleCrasher) check() (reached map[digest.Digest]bool) {
	c.t.Helper()
	w := newWire(c.on.URL)
	c.recovers(w)
	reached = c.model.check(c.t, w)
	for i := range c.on.Servers {
		c.listed(newWire(c.on.Servers[i].URL))
	}
	return reached
}

// recovers waits until all servers do their work again, which they do by themselves.
func (c *scaleCrasher) recovers(w *wire) {
	c.t.Helper()
	waitFor(c.t, "recovery", func() bool {
		for range c.on.Servers {
			c.probes++ // the same bytes may be just being deleted by a server that was killed
			a, err := w.pushBlob("recovery", fmt.Append(nil, "recovered ", c.probes))
			if err != nil || a.status != http.StatusCreated {
				return false
			}
		}
		return true
	})
}

// listed checks that a server lists the tags that are there, and no others.
func (c *scaleCrasher) listed(w *wire) {
	c.t.Helper()
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	want := map[string][]string{}
	for tag, at := range c.model.tags {
		if at[0] != "" {
			want[tag.repo] = append(want[tag.repo], tag.tag)
		}
	}
	for repo, tags := range want {
		slices.Sort(tags)
		if got, err := w.tags(repo); err != nil || !slices.Equal(got, tags) {
			c.t.Errorf("the tags of %s are %q, %v: want %q", repo, got, err, tags)
		}
	}
	got, err := w.catalog()
	if err != nil {
		c.t.Error(err)
	}
	for _, repo := range slices.Sorted(maps.Keys(want)) {
		if !slices.Contains(got, repo) {
			c.t.Errorf("the catalog is %q, and has no %s", got, repo)
		}
	}
}

// settle has everything collected that no tag reaches, and checks that it is gone: from
// the metadata, and from the bucket.
func (c *scaleCrasher) settle() {
	t := c.t
	t.Helper()
	for i, s := range c.on.Servers {
		c.on.Stop(i)
		s.Configure(atOnce)
		s.Setenv("BERTH_STORAGE_UPLOAD_EXPIRY=1s")
	}
	for i := range c.on.Servers {
		c.on.Restart(i)
	}
	reached := c.check()
	age(t, c.meta, scaleClaim)
	bound := c.round * sweptClients // pushes that nobody was told of
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		said := strings.TrimSpace(c.on.Servers[c.rand.IntN(3)].Berth("gc").Run())
		objects, open := c.on.S3.Left()
		left := len(objects) - len(reached)
		if said == "removed nothing" && left <= bound && len(open) == 0 {
			t.Logf("%d blobs are reached, %d objects are left of pushes that nobody was told of", len(reached), left)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d blobs are reached, and there are multipart uploads of %q and the objects\n%s\n%s", len(reached), open, strings.Join(objects, "\n"), said)
		}
	}
	c.model.check(t, newWire(c.on.URL))
	for i := range c.on.Servers {
		c.on.Stop(i)
	}
	sameRowsOf(t, c.meta, reached)
}
