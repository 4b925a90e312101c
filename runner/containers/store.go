package containers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

const (
	recordFile = "record.json"
	stateFile  = "state.json"
	noteFile   = "volumes.json"

	making   = ".new-"
	removing = ".gone-"
)

// Store is the directory of all containers. Its methods may be called at the
// same time for different containers.
type Store struct {
	dir        string
	unfinished map[string][]string // what Open has found
}

// recordBound bounds a file of a container, in bytes: it is far more than what a request
// may have.
const recordBound = 256 << 20

// Saved is a container as it was last written.
type Saved struct {
	ID        string
	Container *runner.Container // nil if it cannot be read
	State     runner.State
	RecordErr error // why Container cannot be read
	StateErr  error // why State cannot be read
}

// Open makes the directory if need be, and removes what was being made or
// removed when the daemon ended.
func Open(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, unfinished: map[string][]string{}}
	for _, e := range entries {
		id, half := strings.CutPrefix(e.Name(), making)
		if half {
			var volumes []string
			if err := s.read(e.Name(), noteFile, &volumes, func() bool { return true }); err == nil {
				s.unfinished[id] = volumes
				continue // until the volumes are gone
			}
		}
		if half || strings.HasPrefix(e.Name(), removing) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Note writes down which volumes are about to be made for a container, which is
// created after that. They are Unfinished if the daemon ends before.
func (s *Store) Note(id string, volumes []string) error {
	tmp := filepath.Join(s.dir, making+id)
	if err := os.Mkdir(tmp, 0o710); err != nil {
		return err
	}
	err := writeJSON(filepath.Join(tmp, noteFile), volumes)
	if err == nil {
		err = errors.Join(durable.SyncDir(tmp), durable.SyncDir(s.dir))
	}
	if err != nil {
		return errors.Join(err, s.Discard(id))
	}
	return nil
}

// Unfinished returns, by ID, the volumes noted for containers that were never
// created. Discard is to be called when they are gone.
func (s *Store) Unfinished() map[string][]string { return s.unfinished }

// Discard gives up a container that was noted and is not to be created.
func (s *Store) Discard(id string) error { return os.RemoveAll(filepath.Join(s.dir, making+id)) }

// Load reads all containers. What cannot be read of one is told with it, and is left
// as it is; a directory that nothing of a container is in is passed over.
func (s *Store) Load() ([]Saved, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var all []Saved
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		one := s.load(e.Name())
		if errors.Is(one.RecordErr, fs.ErrNotExist) {
			if _, err := os.Stat(s.Upper(one.ID)); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		all = append(all, one)
	}
	return all, nil
}

func (s *Store) load(id string) Saved {
	one := Saved{ID: id}
	var rec runner.Container
	one.RecordErr = s.read(id, recordFile, &rec, func() bool {
		return rec.ID == id && rec.Name != "" && rec.Config != nil && rec.HostConfig != nil
	})
	if one.RecordErr == nil {
		one.Container = &rec
	}
	one.StateErr = s.read(id, stateFile, &one.State, func() bool { return transitions[one.State.Status] != nil })
	switch {
	case errors.Is(one.StateErr, fs.ErrNotExist): // it has not been started
		one.State, one.StateErr = runner.State{Status: container.StateCreated}, nil
	case one.StateErr != nil:
		one.State = runner.State{} // not half of it
	}
	return one
}

// read reads a file of a container, of which sound says whether it makes sense.
func (s *Store) read(id, name string, into any, sound func() bool) error {
	path := filepath.Join(s.dir, id, name)
	data, err := durable.ReadFile(path, recordBound)
	switch {
	case err != nil:
	case len(data) == 0:
		err = errors.New("it is empty")
	default:
		err = json.Unmarshal(data, into)
		if err == nil && !sound() {
			err = errors.New("it is not what was written")
		}
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	return nil
}

// Dir is the directory of a container.
func (s *Store) Dir(id string) string { return filepath.Join(s.dir, id) }

// Upper is the writable layer of a container, and Work what overlayfs needs
// beside it.
func (s *Store) Upper(id string) string { return filepath.Join(s.dir, id, "upper") }

// Work is overlayfs's own directory beside Upper.
func (s *Store) Work(id string) string { return filepath.Join(s.dir, id, "work") }

// Logs is the directory of a container's log.
func (s *Store) Logs(id string) string { return filepath.Join(s.dir, id, "logs") }

// Create makes the directory of a container that has not been started. It is on
// disk when Create returns nil.
func (s *Store) Create(c *runner.Container) (err error) {
	tmp := filepath.Join(s.dir, making+c.ID)
	if err := os.Mkdir(tmp, 0o710); err != nil && !errors.Is(err, fs.ErrExist) { // it may be noted
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Discard(c.ID))
		}
	}()
	// The root of the container is the root of its writable layer: everybody
	// may look into it, whatever the daemon's umask is.
	upper := filepath.Join(tmp, "upper")
	for dir, mode := range map[string]os.FileMode{upper: 0o755, filepath.Join(tmp, "work"): 0o711, filepath.Join(tmp, "logs"): 0o700} {
		if err := os.Mkdir(dir, mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(upper, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	if err := writeJSON(filepath.Join(tmp, recordFile), c); err != nil {
		return err
	}
	if err := durable.SyncDir(tmp); err != nil {
		return err
	}
	if err := durable.Rename(tmp, s.Dir(c.ID)); err != nil {
		return err
	}
	// The note counts until the container is there, and not from then on.
	if err := os.Remove(filepath.Join(s.Dir(c.ID), noteFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SaveRecord replaces the record of a container.
func (s *Store) SaveRecord(c *runner.Container) error {
	return s.replace(c.ID, recordFile, c)
}

// SaveState replaces the state of a container.
func (s *Store) SaveState(id string, st runner.State) error {
	return s.replace(id, stateFile, st)
}

func (s *Store) replace(id, name string, v any) error {
	path := filepath.Join(s.dir, id, name)
	if err := writeJSON(path+".tmp", v); err != nil {
		return err
	}
	return durable.Rename(path+".tmp", path)
}

// Remove removes a container and all its files. Once it is renamed it is gone,
// also if the daemon ends before its files are.
func (s *Store) Remove(id string) error {
	gone := filepath.Join(s.dir, removing+id)
	err := durable.Rename(s.Dir(id), gone)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}

func writeJSON(path string, v any) (err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}
