// Package audit keeps a record of who did what: a line of JSON for each push,
// deletion, move of a tag, login, refused request, and change of an account or a
// token; and it tells webhooks of pushes, pulls and deletions.
//
// It promises that an event of a push or deletion is in the outbox, from which
// webhooks are told at least once and in order, if and only if the change itself is
// durable. A line of the log is written before the client has its answer; it is not
// synced, and a line that cannot be written (a full disk) does not fail the request:
// it goes to the program's own log as an error, and is counted. Pulls are told to
// webhooks only, and those of the last second are lost in a crash.
//
// Servers that share a store share the outbox, and have a log each: all lines of all of
// them, put together by their time, are the record.
package audit

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Actor is who does something, as far as a request tells.
type Actor struct {
	Account string // empty for somebody who has not signed in
	Source  string // that vouches for the account: htpasswd, ldap, ...
	Key     string // id of the API key that was used, or empty
	Client  string // address
	Request string // id of the request
}

// Event is something that was done, or refused.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"event"`
	Outcome Outcome   `json:"outcome"`
	Actor   Actor     `json:"-"` // the encoding has its fields beside the event's
	Repo    string    `json:"repository,omitempty"`
	Tag     string    `json:"tag,omitempty"`
	Tags    []string  `json:"tags,omitempty"` // all of them, Tag included, if a push had several
	Digest  string    `json:"digest,omitempty"`
	Was     string    `json:"was,omitempty"`     // digest that a tag named before
	Action  string    `json:"action,omitempty"`  // that was refused
	Subject string    `json:"subject,omitempty"` // account or key that was changed
	Reason  string    `json:"reason,omitempty"`  // of a refusal, without secrets
	Media   string    `json:"mediaType,omitempty"`
	Size    int64     `json:"size,omitempty"` // bytes
}

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	Push          Kind = "push"   // a manifest was stored
	Pull          Kind = "pull"   // a manifest was read; for webhooks only
	Delete        Kind = "delete" // a manifest, tag or blob was removed
	TagMove       Kind = "tag"    // a tag was created or moved
	Login         Kind = "login"
	Access        Kind = "access" // refused; what is allowed is told by its own kind
	AccountChange Kind = "account"
	TokenChange   Kind = "token"  // an API key or a registry's refresh token
	ConfigChange  Kind = "config" // the configuration or a key of the registry
)

// Outcome is how it ended.
type Outcome string

// The outcomes.
const (
	OK     Outcome = "ok"
	Denied Outcome = "denied"
	Failed Outcome = "failed"
)

// Recorder takes events. It must not block for long, and fills Time and Actor
// (from the context) where they are not set.
type Recorder interface {
	Record(ctx context.Context, e Event)
}

// Func is a Recorder that is a function.
type Func func(ctx context.Context, e Event)

// Record calls f.
func (f Func) Record(ctx context.Context, e Event) { f(ctx, e) }

// Recorders returns a Recorder that tells each of r, but for those that are nil.
func Recorders(r ...Recorder) Recorder {
	r = slices.DeleteFunc(slices.Clone(r), func(r Recorder) bool { return r == nil })
	return Func(func(ctx context.Context, e Event) {
		e = e.complete(ctx, time.Now) // so that all say the same
		for _, r := range r {
			r.Record(ctx, e)
		}
	})
}

// complete fills in what is not set: when, who, and that it went well.
func (e Event) complete(ctx context.Context, now func() time.Time) Event {
	if e.Time.IsZero() {
		e.Time = now()
	}
	if e.Actor == (Actor{}) {
		if a := FromContext(ctx); a != nil {
			e.Actor = *a
		}
	}
	e.Outcome = cmp.Or(e.Outcome, OK)
	return e
}

type actorKey struct{}

// NewContext returns a context that carries who acts.
func NewContext(ctx context.Context, a *Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// FromContext returns who acts, or nil.
func FromContext(ctx context.Context) *Actor {
	a, _ := ctx.Value(actorKey{}).(*Actor)
	return a
}
