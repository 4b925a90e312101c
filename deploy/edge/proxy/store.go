package proxy

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

// load reads the routes. A file that cannot be read is put aside.
func load(path string) (map[string][]deploy.EdgeRoute, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the path is the daemon's
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]deploy.EdgeRoute{}, nil
	}
	if err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		// No crash leaves it like that. Whoever set the routes will do it again.
		//nolint:gosec // the path is the daemon's
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

func save(path string, owners map[string][]deploy.EdgeRoute) error {
	text, err := json.Marshal(stored{owners})
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text)
}
