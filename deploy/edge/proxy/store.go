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

func load(path string) (map[string][]deploy.EdgeRoute, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]deploy.EdgeRoute{}, nil
	}
	if err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("routes in %s: %w", path, err)
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
