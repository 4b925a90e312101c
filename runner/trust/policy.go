package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/berth-registry/berth/runner"
)

// Local is the place of an image that was made on this host. No repository of a
// registry is called so.
const Local = "local"

// patience is how long the signatures of an image may take to fetch, all in all.
const patience = 30 * time.Second

// Options of a Policy.
type Options struct {
	// Dir keeps the signatures by which images may run. Empty keeps none.
	Dir string
	Log *slog.Logger
}

// Policy says which images may run. It is safe for concurrent use.
type Policy struct {
	log      *slog.Logger
	evidence evidence
	rules    atomic.Pointer[ruleSet]

	lifetime func() context.Context // ends with the policy
	stop     context.CancelFunc
	mu       sync.Mutex // guards closed, and fetching from new ones when it is
	closed   bool
	fetching sync.WaitGroup
}

// ruleSet is the rules that hold, and what may run by them.
type ruleSet struct {
	rules   []*rule
	passed  sync.Map // decisions for signatures that were accepted, by runner.Origin
	flights singleflight.Group
}

// Image is what is asked about.
type Image struct {
	Name string // by which it was asked for, for people
	runner.Provenance
}

// Decision is why an image may run.
type Decision struct {
	Place string // whose rule holds
	Rule  int    // its number, from 1; 0 if there is no policy
	Why   string // for people
}

// Open returns a policy of rules, which its Close ends. It reads their files, and fails
// if one is wrong.
func Open(ctx context.Context, o Options, rules []Rule) (*Policy, error) {
	p := &Policy{log: o.Log, evidence: evidence{dir: o.Dir}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.Set(rules); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.lifetime, p.stop = func() context.Context { return life }, stop
	return p, nil
}

// Close ends what is being fetched. From then on nothing is.
func (p *Policy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.fetching.Wait()
}

// begin counts a fetch, unless the policy is closed.
func (p *Policy) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.fetching.Add(1)
	}
	return !p.closed
}

// Set puts other rules in force, or the same ones with what is in their files now. If
// one is wrong, all stays as it is.
func (p *Policy) Set(rules []Rule) error {
	set := &ruleSet{}
	for i, r := range rules {
		ready, err := load(r)
		if err != nil {
			return fmt.Errorf("trust, rule %d: %w", i+1, err)
		}
		set.rules = append(set.rules, ready)
	}
	p.rules.Store(set)
	return nil
}

// Restricted says whether there are rules, so that not everything runs.
func (p *Policy) Restricted() bool { return len(p.rules.Load().rules) > 0 }

// Decide returns why an image may run. Where it may not the error, which says why not,
// is runner.ErrForbidden, or runner.ErrUnavailable if that could not be found out now.
// Signatures that are not known yet come from sources.
func (p *Policy) Decide(ctx context.Context, img Image, sources Sources) (Decision, error) {
	set := p.rules.Load()
	if len(set.rules) == 0 {
		return Decision{Why: "there is no policy"}, nil
	}
	var wanted []candidate
	var refused []string
	for _, place := range img.places() {
		c := candidate{origin: place}
		c.number, c.rule = set.find(place.Repository)
		d := Decision{Place: place.Repository, Rule: c.number}
		switch {
		case c.rule == nil:
			refused = append(refused, "no rule of the policy is for "+describe(place.Repository))
		case c.rule.deny:
			refused = append(refused, fmt.Sprintf("rule %d of the policy denies %s", c.number, describe(place.Repository)))
		case c.rule.allow:
			d.Why = "the rule allows it"
			return d, nil
		case place.Repository == Local:
			refused = append(refused, fmt.Sprintf("rule %d of the policy wants a signature %s, which %s cannot have: push it, sign it, and pull it", c.number, c.rule.who, describe(Local)))
		default:
			if known, ok := set.passed.Load(place); ok {
				return known.(Decision), nil //nolint:forcetypeassert // nothing else is stored
			}
			wanted = append(wanted, c)
		}
	}
	return p.decideSigned(ctx, set, img, wanted, refused, sources)
}

// candidate is an origin whose rule wants a signature.
type candidate struct {
	origin runner.Origin
	rule   *rule
	number int
}

// decideSigned looks for a signature by which an image may run: first among those that
// are kept, then where it came from.
func (p *Policy) decideSigned(ctx context.Context, set *ruleSet, img Image, wanted []candidate, refused []string, sources Sources) (Decision, error) {
	for _, c := range wanted {
		if p.evidence.accepted(c) {
			return set.pass(c), nil
		}
	}
	kind := runner.ErrForbidden
	for _, c := range wanted {
		err := p.fetchOnce(ctx, set, c, sources)
		if err == nil {
			return set.pass(c), nil
		}
		if errors.Is(err, runner.ErrUnavailable) {
			kind = runner.ErrUnavailable
		}
		refused = append(refused, err.Error())
	}
	return Decision{}, runner.Errorf(kind, "image %s may not run on this host: %s", img.Name, strings.Join(refused, "; "))
}

// pass remembers that an image of an origin may run.
func (s *ruleSet) pass(c candidate) Decision {
	d := Decision{Place: c.origin.Repository, Rule: c.number, Why: "it is signed " + c.rule.who}
	s.passed.Store(c.origin, d)
	return d
}

// find returns the rule for a place, and its number from 1.
func (s *ruleSet) find(place string) (int, *rule) {
	for i, r := range s.rules {
		if r.matches(place) {
			return i + 1, r
		}
	}
	return 0, nil
}

// fetchOnce is fetch, once for all who ask for the same at the same time.
func (p *Policy) fetchOnce(ctx context.Context, set *ruleSet, c candidate, sources Sources) error {
	key := fmt.Sprint(c.origin)
	done := set.flights.DoChan(key, func() (any, error) {
		if !p.begin() {
			return nil, runner.Errorf(runner.ErrUnavailable, "the engine is stopping")
		}
		defer p.fetching.Done()
		// It goes on if the one who came first leaves: others may wait for it.
		fctx, cancel := context.WithTimeout(p.lifetime(), patience)
		defer cancel()
		if _, ok := set.passed.Load(c.origin); ok {
			return nil, nil //nolint:nilnil // somebody else was faster
		}
		err := p.fetch(fctx, c, sources)
		if err == nil {
			set.pass(c)
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return runner.Errorf(runner.ErrUnavailable, "%w", context.Cause(ctx))
	}
}

// fetch looks for a signature at the registry, and keeps the one that counts.
func (p *Policy) fetch(ctx context.Context, c candidate, sources Sources) error {
	named, err := reference.WithName(c.origin.Repository)
	if err != nil {
		return runner.Errorf(runner.ErrForbidden, "%q is no repository: %w", c.origin.Repository, err)
	}
	source := sources(named)
	left := newBudget()
	var rejected, failed error
	found := 0
	for _, subject := range c.subjects() {
		for s, err := range signatures(ctx, source, subject, left) {
			if err != nil {
				failed = err
				continue
			}
			found++
			if rejected = c.rule.accept(s, subject, c.origin.Repository); rejected == nil {
				if err := p.evidence.keep(subject, s); err != nil {
					p.log.ErrorContext(ctx, "keep a signature: the image does not start without its registry", "image", c.image(), "error", err)
				}
				return nil
			}
		}
	}
	switch {
	case failed != nil && ctx.Err() != nil:
		failed = fmt.Errorf("the registry took longer than %s", patience)
		fallthrough
	case failed != nil:
		return runner.Errorf(runner.ErrUnavailable, "the signatures of %s cannot be fetched: %w", c.image(), failed)
	case found == 0:
		return runner.Errorf(runner.ErrForbidden, "rule %d of the policy wants a signature %s, and %s has none: sign it with cosign sign %s", c.number, c.rule.who, c.image(), c.image())
	}
	return runner.Errorf(runner.ErrForbidden, "rule %d of the policy wants a signature %s, and of %s that were found for %s none is: %w",
		c.number, c.rule.who, count(found), c.image(), rejected)
}

func count(n int) string {
	if n == 1 {
		return "1 signature"
	}
	return fmt.Sprintf("%d signatures", n)
}

// subjects are the digests whose signature counts for the image.
func (c candidate) subjects() []digest.Digest {
	if c.origin.Root == c.origin.Manifest {
		return []digest.Digest{c.origin.Root}
	}
	return []digest.Digest{c.origin.Root, c.origin.Manifest}
}

// image names what would have to be signed.
func (c candidate) image() string { return c.origin.Repository + "@" + c.origin.Root.String() }

// places are the origins of the image, the newest first, and this host.
func (i Image) places() []runner.Origin {
	var places []runner.Origin
	for n := range i.Origins {
		places = append(places, i.Origins[len(i.Origins)-1-n])
	}
	if i.Local || len(places) == 0 {
		places = append(places, runner.Origin{Repository: Local})
	}
	return places
}

func describe(place string) string {
	if place == Local {
		return "what came from no registry (" + Local + ")"
	}
	return place
}
