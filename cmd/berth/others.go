package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/mirroring"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/namespace"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/replicating"
	"github.com/berth-registry/berth/storage"
)

// others are the other registries that this one knows: those that it mirrors, and
// those that it replicates to.
type others struct {
	mirrors    []config.Mirror
	upstreams  map[string]*upstream.Upstream // of mirrors, by name
	targets    map[string]*upstream.Upstream // of replication, by name
	mirror     *mirror.Registry              // or nil
	worker     *mirroring.Worker
	replicator *replicating.Replicator
}

// newOthers prepares the clients of all other registries, and the queue of what is to
// be replicated.
func newOthers(c config.Config, meta storage.Meta, log *slog.Logger) (o *others, err error) {
	o = &others{mirrors: c.Mirrors, upstreams: map[string]*upstream.Upstream{}, targets: map[string]*upstream.Upstream{}}
	for _, m := range c.Mirrors {
		if o.upstreams[m.Name], err = newUpstream("mirror", m.Name, m.Upstream, m.Login, 0, log); err != nil {
			return nil, fmt.Errorf("mirrors: %s: %w", m.Name, err)
		}
	}
	for _, r := range c.Replication {
		if o.targets[r.Name], err = newUpstream("replication", r.Name, r.URL, r.Login, verifying, log); err != nil {
			return nil, fmt.Errorf("replication: %s: %w", r.Name, err)
		}
	}
	rules, err := replicationRules(c)
	if err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	o.replicator = replicating.New(replicating.Options{
		Target: func(name string) registry.Registry {
			if u := o.targets[name]; u != nil {
				return u.Client()
			}
			return nil
		},
		Unavailable: func(name string) error {
			if u := o.targets[name]; u != nil {
				return u.Unavailable()
			}
			return nil
		},
		Mirrored: o.mirrored, Meta: meta, Log: log,
	}, rules)
	return o, nil
}

// verifying is how long a registry that is pushed to may take to answer: it may read a
// large blob again before it does.
const verifying = 10 * time.Minute

// newUpstream makes the client of another registry, which may take so long to answer;
// 0 for the default.
func newUpstream(kind, name, url string, l config.Login, answer time.Duration, log *slog.Logger) (*upstream.Upstream, error) {
	password, err := secret(l.Password, l.PasswordFile)
	if err != nil {
		return nil, err
	}
	token, err := secret(l.Token, l.TokenFile)
	if err != nil {
		return nil, err
	}
	o := upstream.Options{
		Kind: kind, Name: name, URL: url, Username: l.Username, Password: password, Token: token, CredentialHelper: l.CredentialHelper,
		HeaderTimeout: answer, CAFile: l.CA, Proxy: l.Proxy, UserAgent: "berth/" + version, Log: log,
	}
	if l.Provider != "none" {
		o.Provider = l.Provider
	}
	return upstream.New(o)
}

// open puts the mirrors before what is stored here, which they fill.
func (o *others) open(c config.Config, local *registry.Local, pulls *retention.Pulls, authority auth.Authority, meta storage.Meta, log *slog.Logger) (registry.Registry, error) {
	o.replicator.SetSource(local)
	o.worker = mirroring.New(o.sources(), jobTarget{pulls.Wrap(local), local}, meta, mirroring.Options{Log: log})
	if len(c.Mirrors) == 0 {
		return local, nil
	}
	ups := make([]mirror.Upstream, 0, len(c.Mirrors))
	for _, m := range c.Mirrors {
		u := o.upstreams[m.Name]
		ups = append(ups, mirror.Upstream{
			Name: m.Name, Prefix: m.PathPrefix(), Remote: u.Client(), Unavailable: u.Unavailable, Repo: theirName(m),
			Revalidate: m.Revalidate, Negative: m.Negative, Patience: m.Patience,
		})
	}
	options := mirror.Options{Dir: filepath.Join(c.Storage.Data, "mirror"), Log: log}
	if authority != nil {
		options.MayFetch = func(ctx context.Context, repo string) error { return auth.MayFetch(ctx, authority, repo) }
	}
	var err error
	if o.mirror, err = mirror.New(local, ups, options); err != nil {
		return nil, fmt.Errorf("mirrors: %w", err)
	}
	return o.mirror, nil
}

// jobTarget is where jobs copy to. What they find to be there still counts as pulled: a
// cache keeps it.
type jobTarget struct {
	registry.Registry
	learnt *registry.Local
}

// Upstreamed implements mirroring.Target.
func (t jobTarget) Upstreamed(ctx context.Context, repo, tag string) (registry.Upstreamed, error) {
	return t.learnt.Upstreamed(ctx, repo, tag)
}

// SetUpstreamed implements mirroring.Target.
func (t jobTarget) SetUpstreamed(ctx context.Context, repo, tag string, u registry.Upstreamed) error {
	return t.learnt.SetUpstreamed(ctx, repo, tag, u)
}

// theirName is how an upstream calls a repository.
func theirName(m config.Mirror) func(string) string {
	if !m.Hub() {
		return nil
	}
	return func(repo string) string {
		if !strings.Contains(repo, "/") {
			return "library/" + repo
		}
		return repo
	}
}

// sources are what can be copied from on a schedule, by the names of the mirrors.
func (o *others) sources() map[string]mirroring.Upstream {
	all := map[string]mirroring.Upstream{}
	for _, m := range o.mirrors {
		u := o.upstreams[m.Name]
		all[m.Name] = mirroring.Upstream{Source: u.Client(), Unavailable: func() error { return spare(u, time.Now()) }, Repo: theirName(m)}
	}
	return all
}

// lookAgain is how long what an upstream has said of its limit is believed.
const lookAgain = 15 * time.Minute

// spare says that an upstream is not to be asked for what nobody waits for: the last
// tenth of what it allows is for those who pull.
func spare(u *upstream.Upstream, now time.Time) error {
	if err := u.Unavailable(); err != nil {
		return err
	}
	l := u.Stats().RateLimit
	if until := l.At.Add(lookAgain); l.Known && l.Remaining <= l.Limit/10 && now.Before(until) {
		return &upstream.Unavailable{
			Name: u.Name(), Until: until, Limited: true,
			Reason: fmt.Sprintf("%d of the %d pulls that it allows are left, for those who wait for them", l.Remaining, l.Limit),
		}
	}
	return nil
}

// mirrored says whether a repository is a mirror's, and below which prefix.
func (o *others) mirrored(repo string) (prefix string, ok bool) {
	for _, m := range o.mirrors {
		if p := m.PathPrefix(); len(p) > len(prefix) && strings.HasPrefix(repo, p+"/") {
			prefix = p
		}
	}
	return prefix, prefix != ""
}

// collectionName is the account in whose name garbage is collected.
const collectionName = "berth collection"

// prepare reads what can change while the server runs. What it returns makes it hold.
func (o *others) prepare(c config.Config) (apply func() error, err error) {
	jobs, err := o.jobs(c)
	if err != nil {
		return nil, err
	}
	return func() error { return o.worker.SetJobs(o.sources(), jobs) }, nil
}

// jobs are what is copied on a schedule.
func (o *others) jobs(c config.Config) (jobs []mirroring.Job, err error) {
	for _, s := range c.Sync {
		job, err := mirroring.NewJob(o.jobSpec(s))
		if err != nil {
			return nil, fmt.Errorf("sync: %s: %w", s.Name, err)
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}

func (o *others) jobSpec(s config.Sync) mirroring.Spec {
	spec := mirroring.Spec{
		Name: s.Name, Mirror: s.Mirror, Repos: s.Repos, Tags: s.Tags, Match: s.Matching, Semver: s.Semver, Latest: s.Latest,
		Exclude: s.Exclude, Platforms: s.Platforms, Referrers: s.Referrers, Prune: s.Prune,
		Every: s.Every, Cron: s.Cron, TimeZone: s.TimeZone, Jobs: s.Jobs, Rate: s.Rate,
	}
	for _, m := range o.mirrors {
		if m.Name == s.Mirror {
			spec.Prefix = m.PathPrefix()
		}
	}
	return spec
}

func replicationRules(c config.Config) (rules []replicating.Rule, err error) {
	for _, r := range c.Replication {
		rule, err := replicating.NewRule(replicating.Spec{
			Name: r.Name, URL: r.URL, Repos: r.Repos, Tags: r.Tags, Strip: r.Strip, Prefix: r.Prefix, Deletes: r.Deletes, Jobs: r.Jobs, Rate: r.Rate,
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// caches are how long mirrors keep what they have, and how much that may be.
func caches(c config.Config) (all []caching.Mirror) {
	for _, m := range c.Mirrors {
		all = append(all, caching.Mirror{Name: m.Name, Prefix: m.PathPrefix(), Keep: m.Keep, Quota: m.Quota})
	}
	return all
}

// namespaces are the mirrors as clients ask for them.
func namespaces(c config.Config) (all []namespace.Mirror) {
	for _, m := range c.Mirrors {
		all = append(all, namespace.Mirror{Prefix: m.PathPrefix(), Namespaces: m.AskedFor(), Hub: m.Hub(), Default: m.RegistryMirror})
	}
	return all
}

// administer adds to the administration's options what there is of other registries.
func (o *others) administer(options *admin.Options, caches *caching.Evictor) {
	options.Mirroring = &mirrorJobs{o.worker, o, caches}
	options.Replicator = &replications{o.replicator}
}

// runs are what goes on until the registry ends.
func (o *others) runs() []func(context.Context) {
	return []func(context.Context){as("berth mirror", o.worker.Run), o.replicator.Run}
}

// close ends what goes on after its callers are gone.
func (o *others) close() (err error) {
	if o.mirror != nil {
		err = o.mirror.Close()
	}
	for _, all := range []map[string]*upstream.Upstream{o.upstreams, o.targets} {
		for _, u := range all {
			u.Close()
		}
	}
	return err
}
