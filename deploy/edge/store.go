package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/durable"
)

// stored is the file of routes.
type stored struct {
	Boot   string // of the host, which the replicas' addresses are of
	Owners map[string][]deploy.EdgeRoute
}

// bootID tells a start of the host from another; empty if the kernel does not say.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// LoadRoutes reads the routes of all owners, for whoever holds the lock. A file that
// cannot be read is put aside. Since the host was started again the addresses of
// replicas may be those of others: there are none, and requests wait until somebody says
// where they are.
func LoadRoutes(o Options) (map[string][]deploy.EdgeRoute, error) {
	path := o.Routes()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]deploy.EdgeRoute{}, nil
	}
	if err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		// No crash leaves it like that. Whoever set the routes will do it again.
		if rerr := os.Rename(path, path+".unreadable"); rerr != nil {
			return nil, errors.Join(fmt.Errorf("routes in %s: %w", path, err), rerr)
		}
		s.Owners = nil
	}
	for _, routes := range s.Owners {
		for i := range routes {
			if s.Boot != bootID() {
				routes[i].Upstreams = nil
			}
		}
	}
	if s.Owners == nil {
		s.Owners = map[string][]deploy.EdgeRoute{}
	}
	return s.Owners, nil
}

// SaveRoutes writes the routes of all owners, for whoever holds the lock. They are on
// disk when it returns, or it fails and those before are.
func SaveRoutes(o Options, owners map[string][]deploy.EdgeRoute) error {
	text, err := json.Marshal(stored{bootID(), owners})
	if err != nil {
		return err
	}
	return durable.WriteFile(o.Routes(), text)
}

// forget lets go of the routes of an owner while no program serves. It says whether
// that was the case.
func forget(o Options, owner string) (bool, error) {
	unlock, err := durable.Lock(o.Lock())
	if errors.Is(err, durable.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	owners, err := LoadRoutes(o)
	if err == nil && owners[owner] != nil {
		delete(owners, owner)
		err = SaveRoutes(o, owners)
	}
	return true, errors.Join(err, unlock())
}
