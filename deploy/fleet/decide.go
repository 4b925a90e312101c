package fleet

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// situation is what this host runs, as far as it matters.
type situation struct {
	running   digest.Digest // in service; empty: nothing of this repository
	foreign   bool          // something else is
	deploying digest.Digest // empty: nothing of this repository
	busy      int           // revision that is being deployed; 0: none
	failed    failure
	unusable  string // why nothing can be deployed; what is in service is not known then
}

// unknown is the revision of what the manager does not know yet, or no more.
const unknown = -1

// action is what is to be done.
type action int

const (
	nothing action = iota
	deployIt
	cancelIt
)

// decide says what is to be done about an answer of the registry.
func decide(s situation, a runner.FollowAnswer) (action, digest.Digest) {
	switch {
	case s.unusable != "":
		return nothing, ""
	case s.busy != 0 && s.deploying == "": // by hand: it is replaced when it has ended
		return nothing, ""
	case s.busy != 0 && a.Tag != "" && a.Tag != s.deploying && a.Digest != s.deploying:
		return cancelIt, s.deploying
	case s.busy != 0, a.Digest == "", a.Digest == s.running:
		return nothing, ""
	case a.Digest == s.failed.Digest && a.Rollout.Attempt == s.failed.Attempt:
		return nothing, ""
	}
	return deployIt, a.Digest
}

// observe makes out what the manager does with a stack.
func observe(st deploy.Status, history []deploy.Revision, ref string) situation {
	s := situation{busy: st.Deploying, foreign: st.Revision != 0}
	for _, r := range history {
		if r.Number == st.Revision {
			s.running = digestOf(r.From, ref)
			s.foreign = s.running == ""
		}
		if st.Deploying != 0 && r.Number == st.Deploying {
			s.deploying = digestOf(r.From, ref)
			if r.Outcome == deploy.Paused { // it is not going on
				s.busy, s.deploying = 0, ""
			}
		}
	}
	return s
}

// digestOf returns the digest of where a revision is from if that is the repository of
// ref, whatever its tag.
func digestOf(from, ref string) digest.Digest {
	name, d, ok := strings.Cut(from, "@")
	if !ok || repository(name) != repository(ref) || digest.Digest(d).Validate() != nil {
		return ""
	}
	return digest.Digest(d)
}

// repository is a reference without its tag.
func repository(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}
