package runner

import (
	"github.com/moby/moby/api/types/registry"
)

// PullRequest asks for images of a registry.
type PullRequest struct {
	Ref      string // a name with tag or digest, or a bare repository; short names allowed
	All      bool   // every tag of the repository
	Platform string // os[/arch[/variant]], or empty for the host's
	Auth     *registry.AuthConfig
}

// PushRequest asks to send images to their registry.
type PushRequest struct {
	Ref      string // a name with tag; without one and with All: every tag
	All      bool
	Platform string
	Auth     *registry.AuthConfig
}

// ImportRequest asks for an image of one layer made from an archive.
type ImportRequest struct {
	Repo, Tag string
	Message   string
	Changes   []string // instructions of a Dockerfile
	Platform  string
}

// ImageRemoveOptions say how an image or one of its names is removed.
type ImageRemoveOptions struct {
	Force   bool
	NoPrune bool // keep untagged parents
}

// ImageListOptions choose among images.
type ImageListOptions struct {
	All       bool // also intermediate ones
	Manifests bool
	Filters   Filters
}

// SearchRequest asks a registry for repositories.
type SearchRequest struct {
	Term    string // may begin with a registry's host
	Limit   int    // 0: the registry's own
	Filters Filters
	Auth    *registry.AuthConfig
}
