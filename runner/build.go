package runner

import (
	"io"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
)

// BuildRequest asks for an image made of a Dockerfile, by a client that does not
// speak BuildKit's own protocol.
//
// The context comes from one of three: Context, if it is not nil; Remote, if it is
// not empty; or the client's session, by the name "context".
type BuildRequest struct {
	ID      string // names the build to cancel it, and no other build; made up if empty
	Session string // of a client that serves files, secrets and credentials; or empty

	Context io.Reader // a tar archive, packed or not; it is read to its end once
	// Remote is a git repository, or the URL of an archive or of a Dockerfile.
	Remote string
	// Dockerfile is its path in the context; empty is "Dockerfile". The session
	// serves it by the name "dockerfile".
	Dockerfile string
	// NoSyntax takes a "# syntax" line of it for a comment.
	NoSyntax bool

	Names     []string // that the image gets; short forms allowed
	Target    string   // stage to stop at
	Platform  string   // os/arch[/variant], several with commas, or empty
	Args      map[string]*string
	Labels    map[string]string
	NoCache   bool
	Pull      bool // ask the registry for base images that are here
	CacheFrom []string

	NetworkMode  string // default, bridge, host or none
	ExtraHosts   []string
	ShmSize      int64 // bytes; 0: the default
	Ulimits      []*container.Ulimit
	CgroupParent string
	Memory       int64 // bytes
	MemorySwap   int64 // bytes, with Memory's
	CPUShares    int64
	CPUPeriod    int64 // microseconds
	CPUQuota     int64 // microseconds
	CPUSetCPUs   string
	CPUSetMems   string

	Auth    map[string]registry.AuthConfig // by registry, beside those of the session
	Outputs []BuildOutput                  // empty: the image store
}

// BuildOutput is where the result of a build goes.
type BuildOutput struct {
	Type  string // image, moby, docker, oci, local, tar
	Attrs map[string]string
}

// BuildResult is what came of a build.
type BuildResult struct {
	ImageID  string            // empty, if it went elsewhere than into the image store
	Response map[string]string // of BuildKit's exporters
}

// BuildPruneOptions choose what of the build cache goes.
type BuildPruneOptions struct {
	All bool // also what images are made of, and internal things
	// KeepStorage is how many bytes may stay; MaxUsedSpace is how many may at most
	// be taken, MinFreeSpace how many of the disk shall be free. 0: no such bound.
	KeepStorage, MaxUsedSpace, MinFreeSpace int64
	Filters                                 Filters
}
