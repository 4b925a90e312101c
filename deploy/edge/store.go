package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/durable"
)

// stored is the file of routes.
type stored struct {
	Owners map[string][]deploy.EdgeRoute
}

// LoadRoutes reads the routes of all owners, for whoever holds the lock. A file that
// cannot be read is put aside.
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
	if s.Owners == nil {
		s.Owners = map[string][]deploy.EdgeRoute{}
	}
	return s.Owners, nil
}

// SaveRoutes writes the routes of all owners, for whoever holds the lock. They are on
// disk when it returns, or it fails and those before are.
func SaveRoutes(o Options, owners map[string][]deploy.EdgeRoute) error {
	text, err := json.Marshal(stored{owners})
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
