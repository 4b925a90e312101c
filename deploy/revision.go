package deploy

import (
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// Request asks for a stack to be put into service.
type Request struct {
	Stack    Stack
	Contents Contents // of the stack's files; those that the host has already may be left out
	By       string   // who asks, for the history
	From     string   // where the stack comes from: a file, or an artifact with its digest
	// Auth are credentials of registries, by their host, for this deployment.
	Auth map[string]registry.AuthConfig
}

// Revision is a version of a stack on this host, and what became of it. Revisions of
// a stack are numbered from 1.
type Revision struct {
	Number   int
	By       string
	From     string
	Started  time.Time
	Ended    time.Time // zero: it is still going on
	Outcome  Outcome
	Reason   string // why it failed, in a line
	Rollback int    // the revision that this one returns to; 0: it is new
	// Images are the digests of the services' images.
	Images map[string]digest.Digest
	// Kept says that its containers are still there, so that to return to it needs no
	// more than to start them.
	Kept bool
	// Unchanged says that this one was in service already when it was deployed again: it
	// is only returned, not remembered.
	Unchanged bool `json:",omitempty"`
}

// Outcome is what became of a revision.
type Outcome string

// The outcomes.
const (
	Deploying  Outcome = "deploying"
	Deployed   Outcome = "deployed"    // it has the traffic, or had it until the next one
	RolledBack Outcome = "rolled back" // its gate did not hold, and all went back
	Paused     Outcome = "paused"      // its gate did not hold, and it was left as it was
	Failed     Outcome = "failed"      // it could not be deployed, and there was nothing to go back to
	Cancelled  Outcome = "cancelled"   // it was taken back while it was deployed
)

// Status is a stack on this host as it is now.
type Status struct {
	Name     string
	Revision int // that has the traffic; 0: none yet
	// Deploying is the revision that is being put into service; 0: none.
	Deploying int
	Services  []ServiceStatus
	Drift     []string // what is not as it should be, in a line each
	// Error is why the stack cannot be used, or not be looked at, and what to do about
	// it; empty: it can. Services are then what is found of them.
	Error string `json:",omitempty"`
}

// ServiceStatus is a service of a stack as it is now.
type ServiceStatus struct {
	Name     string
	Image    string
	Digest   digest.Digest
	Strategy Strategy
	Job      bool // it is run to its end: Ready is 1 when that was done for its version
	Replicas int  // wanted
	Ready    int  // that run, and whose health check holds
	Ports    network.PortMap
	Hosts    []string // names that the HTTP edge serves it under
	// Containers are those of the revision in service, of the one that is deployed, and
	// those kept of revisions before.
	Containers []ContainerStatus
}

// ContainerStatus is a container of a service.
type ContainerStatus struct {
	ID       string
	Name     string
	Revision int    // that made it
	State    string // as docker ps has it: running, exited, ...
	Health   string // healthy, unhealthy, starting, or none
	Weight   int    // its part of the traffic; 0: none
	Exit     int    // code of its last end
}

// Event is something that happens while a stack is deployed.
type Event struct {
	Time    time.Time
	Stack   string
	Service string `json:",omitempty"`
	// Container is the name of the container that it is about.
	Container string `json:",omitempty"`
	Kind      EventKind
	Message   string // what happens, in a line
}

// EventKind says how an event is shown.
type EventKind string

// The kinds of events.
const (
	EventStep    EventKind = "step"    // a step begins
	EventDetail  EventKind = "detail"  // how a step goes on: bytes pulled, a check that does not pass yet
	EventWarning EventKind = "warning" // something that is not as it should be, and is gone on with
	EventFailure EventKind = "failure" // why the version is not taken
	EventLog     EventKind = "log"     // a line of the log of a container that failed
)
