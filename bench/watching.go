package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/distribution/reference"
	regtypes "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/fleet"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
)

// watchedRepo and watchedTag are what the nodes follow.
const (
	watchedRepo = "stacks/shop"
	watchedTag  = "prod"
)

// watching measures what nodes cost a registry that follow a tag which does not move:
// each reports as often as by default, and has the registry hold a watch in between.
// They are the followers of berth-runner, each with connections of its own, over TLS and
// over plain HTTP, without the engine. The processor time is that of the whole process,
// with one look at the store every fifth of a second; the memory is that of the heap and
// of stacks after a collection of garbage, with the nodes less without. The kernel's for
// sockets is not counted. Beside it stands what the process has more in memory, its
// pages shared out among those who have them (PSS): what Go has taken and not yet given
// back, too.
func watching(ctx context.Context, b *bench) ([]*figure, error) {
	overTLS, err := b.watchingOver(ctx, ", over TLS", true)
	if err != nil {
		return nil, err
	}
	plain, err := b.watchingOver(ctx, "", false)
	return append(overTLS, plain...), err
}

func (b *bench) watchingOver(ctx context.Context, how string, encrypted bool) ([]*figure, error) {
	nodes := plural(b.nodes, "node") + " that follow a tag" + how
	cpu := &figure{Name: "the registry's share of a core, " + nodes, Unit: "%"}
	memory := &figure{Name: "the registry's memory for each of " + nodes + ", heap and stacks in use", Unit: "KB"}
	process := &figure{Name: "the registry's memory for each of " + nodes + ", whole process (PSS)", Unit: "KB"}
	for run := range b.runs {
		s, args, err := b.newBerth(fmt.Sprint("run", run, how))
		if err != nil {
			return nil, err
		}
		if encrypted {
			if args, err = s.encrypt(args); err != nil {
				return nil, err
			}
		}
		var tag digest.Digest
		if err := seeded(ctx, s.data(), func(w registry.Registry) error {
			tag, err = seedFollowed(ctx, w)
			return err
		}); err != nil {
			return nil, err
		}
		if s, err = b.start(ctx, s, "/readyz", b.binary, args...); err != nil {
			return nil, err
		}
		c, err := b.watchCost(ctx, s, tag)
		if err != nil {
			return nil, err
		}
		progress("  run %d%s: %s %% of a core, %s KB for each node, %s KB by PSS\n", run+1, how, format(c.cpu), format(c.memory), format(c.process))
		cpu.add(nameBerth, c.cpu)
		memory.add(nameBerth, c.memory)
		process.add(nameBerth, c.process)
	}
	cpu.value(nameBerth, atMost(1))
	memory.value(nameBerth, atMost(20))
	process.value(nameBerth, bound{})
	return []*figure{cpu, memory, process}, nil
}

// seedFollowed puts a tag there that may be deployed by all nodes at the same time.
func seedFollowed(ctx context.Context, w registry.Registry) (digest.Digest, error) {
	m := seedManifest(0, watchedTag)
	var fields map[string]any
	if err := json.Unmarshal(m.Data, &fields); err != nil {
		return "", err
	}
	fields["annotations"] = map[string]string{rollout.Annotation: `{"parallel":"100%"}`}
	var err error
	if m.Data, err = json.Marshal(fields); err != nil {
		return "", err
	}
	m.Digest = digest.FromBytes(m.Data)
	_, err1 := w.PushBlob(ctx, watchedRepo, digest.FromBytes(seedConfig), bytes.NewReader(seedConfig))
	_, err2 := w.PushManifest(ctx, watchedRepo, m)
	return m.Digest, errors.Join(err1, err2)
}

// watchCost is what nodes cost.
type watchCost struct{ cpu, memory, process float64 }

// watchCost has nodes follow for a while.
func (b *bench) watchCost(ctx context.Context, s *server, tag digest.Digest) (c watchCost, err error) {
	// What the first node brings about is not what the next ones add.
	stop, err := b.followAll(ctx, s, tag, "first", 1)
	if err != nil {
		return c, err
	}
	defer stop()
	used, pss, err := s.inUse(ctx)
	if err != nil {
		return c, err
	}
	stopAll, err := b.followAll(ctx, s, tag, "node", b.nodes)
	if err != nil {
		return c, err
	}
	defer stopAll()
	if err := b.rest(ctx); err != nil {
		return c, err
	}
	before, err := s.proc.cpu()
	if err != nil {
		return c, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return c, ctx.Err()
	case <-time.After(b.followed):
	}
	after, err := s.proc.cpu()
	if err != nil {
		return c, err
	}
	c.cpu = 100 * float64(after-before) / float64(time.Since(began))
	usedNow, pssNow, err := s.inUse(ctx)
	each := float64(b.nodes) * (1 << 10)
	c.memory, c.process = (usedNow-used)/each, (pssNow-pss)/each
	return c, err
}

// inUse returns the bytes of heap and stacks that are in use after a collection of
// garbage, and those of the process.
func (s *server) inUse(ctx context.Context) (used, pss float64, err error) {
	for range 2 { // the second collects what finalizers of the first have let go of
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/debug/pprof/heap?gc=1", nil)
		if err != nil {
			return 0, 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return 0, 0, err
		}
	}
	heap, err1 := s.metric(ctx, "go_memstats_heap_alloc_bytes")
	stacks, err2 := s.metric(ctx, "go_memstats_stack_inuse_bytes")
	resident, err3 := kilobytes(s.proc.proc("smaps_rollup"), "Pss")
	return heap + stacks, float64(resident), errors.Join(err1, err2, err3)
}

// followAll starts nodes that follow the tag, and waits until each runs what it names
// and watches it.
func (b *bench) followAll(ctx context.Context, s *server, tag digest.Digest, name string, n int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	stop = func() {
		cancel()
		running.Wait()
	}
	var all []*fleet.Follower
	for i := range n {
		f, err := b.newFollower(s, name+strconv.Itoa(i))
		if err != nil {
			stop()
			return nil, err
		}
		all = append(all, f)
		running.Go(func() { f.Run(ctx) })
	}
	err = await(ctx, 20*time.Millisecond, plural(n, "node")+" that follow", func() (bool, error) {
		for _, f := range all {
			if st := f.Status(); st.Running != tag || st.State != runner.FollowRunning || !st.Watched {
				return false, errors.New(st.Node + ": " + st.Away)
			}
		}
		return true, nil
	})
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// newFollower makes the follower of a node.
func (b *bench) newFollower(s *server, node string) (*fleet.Follower, error) {
	client, err := remote.New(remote.Options{Hosts: map[string]remote.Host{s.addr: {SkipVerify: s.encrypted}}})
	if err != nil {
		return nil, err
	}
	ref := s.addr + "/" + watchedRepo + ":" + watchedTag
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	tagged, ok := named.(reference.NamedTagged)
	if !ok {
		return nil, fmt.Errorf("%s has no tag", ref)
	}
	source := client.Followed(tagged, func() (*regtypes.AuthConfig, error) { return nil, nil })
	defaults := runnerconfig.Default().Node
	return fleet.New(&instant{}, followedTag{source}, fleet.Options{
		Ref: ref, Stack: "shop", Node: node, Dir: filepath.Join(s.dir, node),
		Interval: defaults.Interval, Poll: defaults.Poll, Log: slog.New(slog.DiscardHandler),
	}), nil
}

// followedTag is a tag whose stack is empty.
type followedTag struct{ *remote.Followed }

// Stack implements fleet.Source.
func (followedTag) Stack(context.Context, digest.Digest) (deploy.Request, error) {
	return deploy.Request{}, nil
}

// instant is a manager of one stack, which it deploys at once and nowhere.
type instant struct {
	mu        sync.Mutex
	revisions []deploy.Revision
}

// Deploy implements fleet.Manager, and so on.
func (m *instant) Deploy(_ context.Context, req deploy.Request, _ func(deploy.Event)) (deploy.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := deploy.Revision{Number: len(m.revisions) + 1, By: req.By, From: req.From, Outcome: deploy.Deployed}
	m.revisions = append([]deploy.Revision{r}, m.revisions...)
	return r, nil
}

func (m *instant) Cancel(context.Context, string) error { return runner.ErrNotFound }

func (m *instant) Status(context.Context, string) (deploy.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return deploy.Status{Revision: len(m.revisions)}, nil
}

func (m *instant) History(context.Context, string) ([]deploy.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]deploy.Revision(nil), m.revisions...), nil
}
