package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/artifact"
	"github.com/berth-registry/berth/deploy/fleet"
	"github.com/berth-registry/berth/deploy/stack"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/engine"
	"github.com/berth-registry/berth/runner/images/remote"
)

// followers are the stacks of this host that follow tags.
type followers []*fleet.Follower

// status tells how they are doing.
func (f followers) status() []deploy.Following {
	var list []deploy.Following
	for _, one := range f {
		list = append(list, one.Status())
	}
	return list
}

// start follows until it is stopped. Deployments that go on then are resumed by the
// next start of the manager.
func (f followers) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, one := range f {
		running.Go(func() { one.Run(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// newFollowers makes what follows the tags that are configured.
func newFollowers(ctx context.Context, cfg runnerconfig.Config, e *engine.Engine, m fleet.Manager, log *slog.Logger) (followers, error) {
	if len(cfg.Follow) == 0 {
		return nil, nil
	}
	node, err := nodeOf(ctx, cfg, e)
	if err != nil {
		return nil, err
	}
	o := engineOptions(cfg, log)
	client, err := remote.New(remote.Options{
		DefaultRegistry: o.DefaultRegistry, Hosts: o.Registries, CertsDir: o.CertsDir, UserAgent: "berth-runner/" + version, Log: log,
	})
	if err != nil {
		return nil, err
	}
	var all followers
	for _, f := range cfg.Follow {
		s, err := newFollowedStack(client, cfg, f, log)
		if err != nil {
			return nil, fmt.Errorf("follow: %w", err)
		}
		all = append(all, fleet.New(m, s, fleet.Options{
			Ref: f.Stack, Stack: f.StackName(), Node: node, Labels: cfg.Node.Labels, Dir: filepath.Join(cfg.Data, "fleet"),
			Interval: cfg.Node.Interval, Poll: cfg.Node.Poll, Log: log,
		}))
	}
	return all, nil
}

// followedStack is a tag of a stack; it implements fleet.Source.
type followedStack struct {
	*remote.Followed

	client *remote.Client
	name   reference.NamedTagged
	stack  string // name of the stack here
	login  func() (*registry.AuthConfig, error)
	logins func(host string) (*registry.AuthConfig, error) // of registries of images
	log    *slog.Logger
}

func newFollowedStack(c *remote.Client, cfg runnerconfig.Config, f *runnerconfig.Follow, log *slog.Logger) (*followedStack, error) {
	name, err := taggedName(f.Stack)
	if err != nil {
		return nil, err
	}
	login := logins(cfg)
	s := &followedStack{
		client: c, name: name, stack: f.StackName(), log: log,
		login: func() (*registry.AuthConfig, error) { return login(f.Host()) },
		logins: func(host string) (*registry.AuthConfig, error) {
			if host == "docker.io" && cfg.Registry.Default != "" {
				return nil, nil //nolint:nilnil // it may be the other one that is meant
			}
			return login(host)
		},
	}
	s.Followed = c.Followed(name, s.login)
	return s, nil
}

// fetchTime is how long a registry may take for a stack.
const fetchTime = time.Minute

// Stack fetches what a digest names.
func (f *followedStack) Stack(ctx context.Context, d digest.Digest) (deploy.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	login, err := f.login()
	if err != nil {
		return deploy.Request{}, err
	}
	target, err := f.client.Target(ctx, f.name, login)
	if err != nil {
		return deploy.Request{}, err
	}
	b, _, err := artifact.Fetch(ctx, target, d.String())
	if err != nil {
		return deploy.Request{}, err
	}
	l, err := loadBundle(ctx, b, f.name.String(), f.stack)
	if err != nil {
		return deploy.Request{}, err
	}
	for _, warning := range l.Warnings {
		f.log.WarnContext(ctx, "what is to be known of a stack", "stack", f.stack, "digest", d, "warning", warning)
	}
	auth, err := credentialsOf(l.Stack, f.logins)
	return deploy.Request{Stack: l.Stack, Contents: l.Contents, Auth: auth}, err
}

// loadBundle makes a stack of an artifact, under the name that it has here.
func loadBundle(ctx context.Context, b artifact.Bundle, ref, name string) (*stack.Loaded, error) {
	// A document of its own: whatever the file calls itself.
	b.Compose = slices.Concat(b.Compose, []byte("\n---\nname: "+name+"\n"))
	if len(b.Extends)+len(b.EnvFiles) == 0 {
		return stack.FromYAML(ctx, ref, b.Compose)
	}
	dir, err := os.MkdirTemp("", "stack-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the next start of the runner clears what is left
	if _, err := b.Write(dir); err != nil {
		return nil, err
	}
	l, err := stack.FromFiles(ctx, ref, b.Compose, dir, b.Extends, slices.Collect(maps.Keys(b.EnvFiles)))
	if err != nil {
		return nil, err
	}
	if strings.Contains(l.Stack.Source, dir) {
		return nil, runner.Errorf(runner.ErrInvalid, "%s: it has paths relative to its Compose file, which are not published with it", ref)
	}
	return l, nil
}
