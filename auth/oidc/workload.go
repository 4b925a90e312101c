package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/berth-registry/berth/auth"
)

// workloadSource is the source of identities of jobs.
const workloadSource = "workload"

// WorkloadOptions are a rule: which jobs may sign in, and who they are then.
type WorkloadOptions struct {
	// Name is the rule's, for logs, and the start of its accounts by default.
	Name string
	// Issuer is the platform's URL exactly as it names itself, for example
	// https://token.actions.githubusercontent.com or a GitLab server's own.
	Issuer string
	// Audience must be one of the token's: the registry's host, say, which the
	// job asks its platform for.
	Audience string
	// CA is a file with the certificates of authorities that may sign the
	// platform's; the system's are taken if it is empty. Rules with one issuer
	// have one CA.
	CA string
	// Claims must all match the token's. In the value, "*" stands for any text,
	// slashes included. A list matches if one of its elements does. A claim within
	// another is named by dots. There must be one at least: the issuer of a public
	// platform signs tokens for everybody's jobs.
	Claims map[string]string
	// Account is the account's name, in which {NAME} stands for the value of a
	// claim: "ci/{repository}". There is a slash before the first, so that no job
	// can choose the name of somebody else's account. NAME/{sub} if it is empty.
	Account string
	// Groups are those that the account is in.
	Groups []string
	Log    *slog.Logger     // nil: no log
	Now    func() time.Time // nil: time.Now
}

// Workload knows jobs by the ID tokens of their platforms. Its methods may be
// called concurrently.
type Workload struct {
	rules   []*rule
	issuers map[string]*issuer // by URL
	epochs  map[string]bool    // of the rules
}

// rule is a WorkloadOptions that was checked.
type rule struct {
	WorkloadOptions
	account template
	epoch   string
}

// NewWorkload checks rules, of which the first whose claims match decides who
// somebody is. It asks nobody.
func NewWorkload(rules []WorkloadOptions) (*Workload, error) {
	w := &Workload{issuers: map[string]*issuer{}, epochs: map[string]bool{}}
	authorities := map[string]string{} // by issuer
	for _, o := range rules {
		r, err := newRule(o)
		if err != nil {
			return nil, fmt.Errorf("workload rule %s: %w", o.Name, err)
		}
		if ca, ok := authorities[o.Issuer]; ok && ca != o.CA {
			return nil, fmt.Errorf("workload rule %s: another rule has another CA for %s", o.Name, o.Issuer)
		} else if !ok {
			if w.issuers[o.Issuer], err = newIssuer(o.Issuer, o.CA, o.Log, o.Now); err != nil {
				return nil, fmt.Errorf("workload rule %s: %w", o.Name, err)
			}
		}
		authorities[o.Issuer] = o.CA
		w.rules = append(w.rules, r)
		w.epochs[r.epoch] = true
	}
	return w, nil
}

func newRule(o WorkloadOptions) (*rule, error) {
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	if o.Audience == "" {
		return nil, errors.New("an audience is missing: a token that was made for others would do")
	}
	if len(o.Claims) == 0 {
		return nil, errors.New("claims are missing: every job of the issuer would do")
	}
	if o.Account == "" {
		o.Account = o.Name + "/{sub}"
	}
	account, err := parseTemplate(o.Account)
	if err != nil {
		return nil, err
	}
	o.Claims, o.Groups = maps.Clone(o.Claims), slices.Clone(o.Groups)
	// A rule that was changed no longer vouches for those whom it let in before.
	parts := []string{o.Name, o.Issuer, o.Audience, o.Account, strings.Join(o.Groups, "\x00")}
	wanted, err := claimTexts(o.Claims)
	if err != nil {
		return nil, err
	}
	return &rule{WorkloadOptions: o, account: account, epoch: epoch(append(parts, wanted...)...)}, nil
}

// Name is the source's name.
func (w *Workload) Name() string { return workloadSource }

// Login returns who a job is, and until when its token holds. It fails with
// auth.ErrUnknown if no rule is about the token's issuer, with auth.ErrWrong if
// the token is not good or no rule matches it, and with ErrUnavailable. The
// error's text is for a log.
func (w *Workload) Login(ctx context.Context, token string) (*auth.Identity, time.Time, error) {
	if len(token) > maxToken {
		return nil, time.Time{}, wrong("it is longer than %d bytes", maxToken)
	}
	url, err := peekIssuer(token)
	if err != nil {
		return nil, time.Time{}, err
	}
	is := w.issuers[url]
	if is == nil {
		return nil, time.Time{}, &refusal{auth.ErrUnknown, "no workload rule for the token's issuer"}
	}
	t, c, err := is.verify(ctx, token, "")
	if err != nil {
		return nil, time.Time{}, err
	}
	r, err := w.match(t, c)
	if err != nil {
		return nil, time.Time{}, err
	}
	account, err := r.account.fill(c)
	if err != nil {
		return nil, time.Time{}, wrong("%v", err)
	}
	flat, err := c.flat()
	if err != nil {
		return nil, time.Time{}, wrong("%v", err)
	}
	return &auth.Identity{
		Account: account, Groups: r.Groups, Claims: flat, Source: workloadSource, Epoch: r.epoch,
	}, t.Expiry, nil
}

// match finds the first rule that a token satisfies.
func (w *Workload) match(t *oidc.IDToken, c claims) (*rule, error) {
	missed := "audience"
	for _, r := range w.rules {
		if r.Issuer != t.Issuer || !slices.Contains(t.Audience, r.Audience) {
			continue
		}
		missed = "claims"
		if c.match(r.Claims) {
			return r, nil
		}
	}
	return nil, wrong("no workload rule matches its %s (subject %q)", missed, t.Subject)
}

// Current says whether the rule that let a job in is still there, unchanged.
func (w *Workload) Current(id *auth.Identity) bool {
	return id.Source == workloadSource && w.epochs[id.Epoch]
}
