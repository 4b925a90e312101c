// Package volumes keeps local volumes.
package volumes

import (
	"context"
	"errors"
	"log/slog"

	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

var errNotYet = errors.New("not yet")

// Store is a directory of volumes.
type Store struct{}

// Open opens the volumes in dir.
func Open(ctx context.Context, dir string, log *slog.Logger) (*Store, error) { return &Store{}, nil }

// Create makes a volume, or returns the one that has the name.
func (s *Store) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{}, errNotYet
}

// List returns the volumes that the filters choose, by name.
func (s *Store) List(ctx context.Context, filters runner.Filters) ([]volume.Volume, error) {
	return nil, errNotYet
}

// Get returns a volume.
func (s *Store) Get(ctx context.Context, name string) (volume.Volume, error) {
	return volume.Volume{}, errNotYet
}

// Remove removes a volume that no container refers to.
func (s *Store) Remove(ctx context.Context, name string, force bool) error { return errNotYet }

// Prune removes the volumes that no container refers to.
func (s *Store) Prune(ctx context.Context, filters runner.Filters) (volume.PruneReport, error) {
	return volume.PruneReport{}, errNotYet
}

// Ref says that a container uses a volume.
func (s *Store) Ref(name, containerID string) error { return errNotYet }

// Unref says that a container uses no volume any more.
func (s *Store) Unref(containerID string) {}
