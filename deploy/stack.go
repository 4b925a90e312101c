package deploy

import (
	"os"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
)

// Stack is what is to run: services that are deployed together, with the networks and
// volumes that they use. It is kept as JSON.
type Stack struct {
	Name     string // as Compose has it: lower case letters, digits, - and _
	Services []Service
	Networks []Network
	Volumes  []Volume
	// Keep is how many versions before the present one keep their stopped containers.
	Keep int
	// Source is the Compose file that the stack was made of, with all that it includes,
	// and variables replaced. It has no contents of secrets.
	Source string
}

// Service is one program of a stack, in as many replicas as are wanted.
type Service struct {
	Name string
	// Image is the reference asked for. Digest is the manifest that it named when the
	// stack was made or published, and is what runs; empty: not known yet.
	Image    string
	Digest   digest.Digest
	Platform string // as os[/arch[/variant]]; empty: the host's
	Pull     PullPolicy
	Replicas int
	// Container is what each replica is made with: without a name, published ports
	// and what the deployment itself adds (labels, mounts of Files). The Aliases of its
	// endpoints are the names of the service, which lead to the containers that have
	// the traffic, and to no others.
	Container container.CreateRequest
	Files     []File // of configs and secrets
	Needs     []Need
	// Job says that the service is to end: it is run once for each version, and has
	// done its work if it ends with 0.
	Job bool

	Ports  network.PortMap // published, as HostConfig.PortBindings has them
	Routes []Route         // of the HTTP edge

	Strategy  Strategy
	Steps     []CanaryStep // of a canary
	Update    Update
	StopGrace time.Duration // from the stop signal to SIGKILL
	Drain     time.Duration // that established connections of an old version get at most
}

// PullPolicy says when an image is pulled.
type PullPolicy string

// The policies of pulling, as Compose names them.
const (
	PullMissing PullPolicy = "missing" // the default
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// Strategy is how a service goes from one version to the next.
type Strategy string

// The strategies.
const (
	// BlueGreen starts all of the new version beside the old, and switches at once. It
	// is the default of services with published ports or routes.
	BlueGreen Strategy = "blue-green"
	// Canary is BlueGreen that moves the traffic in steps.
	Canary Strategy = "canary"
	// Rolling replaces some replicas at a time. It is the default of all others.
	Rolling Strategy = "rolling"
)

// CanaryStep is a part of the new connections that the new version gets for a while.
type CanaryStep struct {
	Weight int           // percent, 1 to 99
	Pause  time.Duration // for which the gate has to hold
}

// Update is the update_config of Compose.
type Update struct {
	Parallelism   int           // replicas at a time of a rolling update; 0: all
	Delay         time.Duration // from one batch to the next
	Monitor       time.Duration // for which the gate has to hold, before and after the switch
	FailureAction FailureAction
	StartFirst    bool // a rolling update starts the new replica before it stops the old
}

// FailureAction is what is done about a version whose gate does not hold.
type FailureAction string

// The actions, as Compose names them.
const (
	OnFailureRollback FailureAction = "rollback" // the default
	OnFailurePause    FailureAction = "pause"    // stop where it is, and leave all running
	OnFailureContinue FailureAction = "continue" // take the version all the same
)

// Condition is what a service waits for of one that it needs.
type Condition string

// The conditions, as Compose names them.
const (
	NeedStarted   Condition = "service_started"
	NeedHealthy   Condition = "service_healthy"
	NeedCompleted Condition = "service_completed_successfully"
)

// Need is a depends_on of Compose.
type Need struct {
	Service   string
	Condition Condition
	Restart   bool // if the other service is replaced, this one is restarted
	Optional  bool // a failure of the other is only told
}

// File is the content of a config or a secret, and where containers find it. The
// content itself is kept apart from the stack, by its digest.
type File struct {
	Name    string // of the config or secret
	Target  string // absolute path in the container
	UID     int
	GID     int
	Mode    os.FileMode
	Content digest.Digest // of the content, see Contents
	Secret  bool
}

// Contents are the contents of files by their digests.
type Contents map[digest.Digest][]byte

// Network is a network of a stack.
type Network struct {
	Key      string // in the stack
	Name     string // of the engine
	External bool   // it must be there already
	Request  network.CreateRequest
}

// Volume is a named volume of a stack.
type Volume struct {
	Key      string // in the stack
	Name     string // of the engine
	External bool   // it must be there already
	Request  volume.CreateRequest
}

// Route is a way by which the HTTP edge leads to a service.
type Route struct {
	Hosts    []string // names, "*.example.com" included; none: every name
	Paths    []string // prefixes "/api", without and with what follows it; none: all
	Port     int      // of the container
	TLS      TLSMode
	Sticky   string        // name of a cookie that keeps a client at its replica; empty: none
	Retries  int           // further replicas that are tried if one does not answer
	TryFor   time.Duration // for which they are tried; 0: the edge's own
	StripTo  bool          // the prefix of Paths is taken away before the service sees it
	MaxBody  int64         // bytes of a request; 0: no bound
	Compress bool          // answers are compressed if the client takes it
}

// TLSMode is how a route is served over TLS.
type TLSMode string

// The modes of TLS.
const (
	TLSAuto     TLSMode = "acme"     // a certificate of an ACME authority; HTTP redirects to HTTPS
	TLSInternal TLSMode = "internal" // a certificate of the edge's own authority
	TLSOff      TLSMode = "off"      // HTTP alone
)
