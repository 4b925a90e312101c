package runner

import (
	"time"

	"github.com/distribution/reference"
)

// UseReport is what a node tells a registry that it runs: all of it, in place of what
// it told before.
type UseReport struct {
	Node   string // letters, digits, '.', '_' and '-'
	TTL    time.Duration
	Images []reference.Canonical // manifests and indexes, of this registry
}
