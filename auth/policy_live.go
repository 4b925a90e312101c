package auth

import "sync/atomic"

// Live is the policy in force, which can be replaced while it is asked. The zero
// Live allows nothing.
type Live struct{ policy atomic.Pointer[Policy] }

// NewLive returns a Live with p in force.
func NewLive(p *Policy) *Live {
	l := &Live{}
	l.Set(p)
	return l
}

// Set puts p in force.
func (l *Live) Set(p *Policy) { l.policy.Store(p) }

// Policy returns the policy in force, which may be nil.
func (l *Live) Policy() *Policy { return l.policy.Load() }

// Decide implements Authority.
func (l *Live) Decide(id *Identity, repo string, a Action) Decision {
	return l.Policy().Decide(id, repo, a)
}

// Prefixes implements Authority.
func (l *Live) Prefixes(id *Identity, a Action) []string { return l.Policy().Prefixes(id, a) }

// Everywhere implements Authority.
func (l *Live) Everywhere(id *Identity, a Action) bool { return l.Policy().Everywhere(id, a) }
