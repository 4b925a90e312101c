package registry

import (
	"sync"

	"github.com/berth-registry/berth/storage"
)

// maxKnown is how many manifests are remembered at most.
const maxKnown = 4096

// known remembers what manifests were found in the metadata, until anything
// there changes. It knows nothing where that cannot be told at once.
type known struct {
	meta storage.Versioner // or nil

	mu    sync.RWMutex
	at    uint64 // version of the metadata that found is of
	found map[knownKey]Descriptor
}

type knownKey struct {
	repo string
	ref  Reference
}

// version is the version of the metadata now.
func (k *known) version() uint64 {
	if k.meta == nil {
		return 0
	}
	return k.meta.Version()
}

func (k *known) get(version uint64, repo string, ref Reference) (Descriptor, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.at != version {
		return Descriptor{}, false
	}
	d, ok := k.found[knownKey{repo, ref}]
	return d, ok
}

// put remembers what was found in a snapshot at least as new as version.
func (k *known) put(version uint64, repo string, ref Reference, d Descriptor) {
	if k.meta == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at != version || len(k.found) >= maxKnown || k.found == nil {
		k.at, k.found = version, map[knownKey]Descriptor{}
	}
	k.found[knownKey{repo, ref}] = d
}
