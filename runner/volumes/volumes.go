package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

const (
	// Driver is the name of the only driver.
	Driver = "local"
	// AnonymousLabel is on volumes that nobody gave a name.
	AnonymousLabel = "com.docker.volume.anonymous"

	scope    = "local"
	dataName = "_data"
	infoName = "volume.json"
	newName  = ".new-" // begins what is being made
	oldName  = ".old-" // begins what is being removed
)

// Options say where volumes are.
type Options struct {
	Dir string // absolute; it is made if it is missing
	Log *slog.Logger
	// Event is told of each volume that was created or destroyed; nil for nobody.
	Event func(action events.Action, name string)
}

// Store is a directory of volumes. It is safe for concurrent use by one process.
type Store struct {
	dir   string
	log   *slog.Logger
	event func(action events.Action, name string)

	clearing sync.WaitGroup
	pruning  atomic.Bool

	mu      sync.Mutex
	volumes map[string]info
	refs    map[string]map[string]bool // IDs of containers by name
	mounts  map[string]*mountState     // by name
	held    map[string]map[string]bool // names that a user of Mount holds
}

// info is what is stored of a volume.
type info struct {
	Name      string            `json:"name"`
	CreatedAt time.Time         `json:"createdAt"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"`
}

// Open opens the volumes of a directory.
func Open(ctx context.Context, o Options) (*Store, error) {
	dir, log := o.Dir, o.Log
	if err := durable.MkdirAll(dir); err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, log: log, event: o.Event,
		volumes: make(map[string]info), refs: make(map[string]map[string]bool),
		mounts: make(map[string]*mountState), held: make(map[string]map[string]bool),
	}
	if s.event == nil {
		s.event = func(events.Action, string) {}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range names {
		name := entry.Name()
		if strings.HasPrefix(name, newName) || strings.HasPrefix(name, oldName) {
			s.clear(filepath.Join(dir, name))
			continue
		}
		v, err := s.load(name)
		if err != nil {
			log.WarnContext(ctx, "what is in the directory of volumes is none", "name", name, "err", err)
			continue
		}
		s.volumes[name] = v
	}
	return s, nil
}

// Close waits until what was interrupted is cleared.
func (s *Store) Close() { s.clearing.Wait() }

// clear removes a directory, which may take long, in the background.
func (s *Store) clear(path string) {
	s.clearing.Go(func() {
		if err := os.RemoveAll(path); err != nil {
			s.log.Error("remove what is left of a volume", "err", err)
		}
	})
}

func (s *Store) load(name string) (info, error) {
	if err := checkName(name); err != nil {
		return info{}, err
	}
	data, err := os.ReadFile(filepath.Join(s.dir, name, infoName))
	if err != nil {
		return info{}, err
	}
	var v info
	if err := json.Unmarshal(data, &v); err != nil {
		return info{}, err
	}
	if v.Name != name {
		return info{}, errors.New("it is described as " + v.Name)
	}
	return v, nil
}

// Create makes a volume, or returns the one that has the name already, whatever
// labels were asked for; made says which. Without a name it gets one, and
// AnonymousLabel.
//
// It returns runner.ErrInvalid for a name or options that are none,
// runner.ErrNotFound for another driver, and runner.ErrConflict if there is one of
// the name with other options.
func (s *Store) Create(_ context.Context, req volume.CreateRequest) (v volume.Volume, made bool, err error) {
	name, labels := req.Name, req.Labels
	if name == "" {
		name = randomID()
		labels = maps.Clone(labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[AnonymousLabel] = ""
	}
	if err := checkRequest(name, req); err != nil {
		return volume.Volume{}, false, runner.Errorf(kindOf(err), "create %s: %w", name, err)
	}
	v, made, err = s.findOrMake(info{Name: name, CreatedAt: time.Now().UTC().Truncate(time.Second), Labels: labels, Options: req.DriverOpts})
	if err != nil {
		return volume.Volume{}, false, runner.Errorf(kindOf(err), "create %s: %w", name, err)
	}
	if made {
		s.event(events.ActionCreate, name)
	}
	return v, made, nil
}

func (s *Store) findOrMake(v info) (_ volume.Volume, made bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there, ok := s.volumes[v.Name]; ok {
		if len(v.Options) > 0 && !maps.Equal(v.Options, there.Options) {
			return volume.Volume{}, false, runner.Errorf(runner.ErrConflict, "volume name must be unique: there is one with other options")
		}
		return s.describe(there), false, nil
	}
	if err := s.make(v); err != nil {
		return volume.Volume{}, false, err
	}
	s.volumes[v.Name] = v
	return s.describe(v), true, nil
}

// make makes the directory of a volume, durably.
func (s *Store) make(v info) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, newName+randomID())
	if err := fill(tmp, data); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := durable.Rename(tmp, filepath.Join(s.dir, v.Name)); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return nil
}

// fill makes a directory with what a new volume has in it, durable but for its
// name.
func fill(dir string, description []byte) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	files := filepath.Join(dir, dataName)
	if err := os.Mkdir(files, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(files, 0o755); err != nil { //nolint:gosec // processes of every user may look into it
		return err
	}
	if err := writeSynced(filepath.Join(dir, infoName), description); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// describe returns a volume as the API has it.
func (s *Store) describe(v info) volume.Volume {
	return volume.Volume{
		Name:       v.Name,
		Driver:     Driver,
		Scope:      scope,
		CreatedAt:  v.CreatedAt.Format(time.RFC3339),
		Labels:     maps.Clone(v.Labels),
		Options:    maps.Clone(v.Options),
		Mountpoint: s.files(v.Name),
	}
}

// files is where the files of a volume are.
func (s *Store) files(name string) string { return filepath.Join(s.dir, name, dataName) }

// Get returns a volume, or runner.ErrNotFound.
func (s *Store) Get(_ context.Context, name string) (volume.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return volume.Volume{}, noSuchVolume("get", name)
	}
	return s.describe(v), nil
}

func noSuchVolume(op, name string) error {
	return runner.Errorf(runner.ErrNotFound, "%s %s: no such volume", op, name)
}

// Remove removes a volume with all that is in it, but not what is in the device
// that its options name. It returns runner.ErrNotFound, but not by force, and
// runner.ErrConflict, also by force, if containers refer to it.
func (s *Store) Remove(_ context.Context, name string, force bool) error {
	aside, err := s.detach(name)
	if errors.Is(err, runner.ErrNotFound) && force {
		return nil
	}
	if err != nil {
		return err
	}
	s.event(events.ActionDestroy, name)
	return os.RemoveAll(aside)
}

// detach takes a volume's name away, so that it is removed even if that is
// interrupted, and returns where it is now.
func (s *Store) detach(name string) (aside string, err error) {
	v, m, err := s.mountOf(name)
	if err != nil {
		return "", err
	}
	if err := s.unused(name); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.users) > 0 {
		return "", inUse(name, m.users)
	}
	// What is mounted belongs to others, and would be removed with the volume.
	if err := s.letGo(v); err != nil {
		return "", runner.Errorf(kindOf(err), "remove %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.unusedLocked(name); err != nil {
		return "", err
	}
	aside = filepath.Join(s.dir, oldName+randomID())
	if err := durable.Rename(filepath.Join(s.dir, name), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", runner.Errorf(kindOf(err), "remove %s: %w", name, err)
	}
	delete(s.volumes, name)
	delete(s.mounts, name)
	return aside, nil
}

// unused is why a volume cannot be removed.
func (s *Store) unused(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unusedLocked(name)
}

func (s *Store) unusedLocked(name string) error {
	if _, ok := s.volumes[name]; !ok {
		return noSuchVolume("get", name)
	}
	if ids := s.refs[name]; len(ids) > 0 {
		return inUse(name, ids)
	}
	return nil
}

func inUse(name string, ids map[string]bool) error {
	return runner.Errorf(runner.ErrConflict, "remove %s: volume is in use - [%s]", name, strings.Join(slices.Sorted(maps.Keys(ids)), ", "))
}

// Ref says that a container uses a volume, which then cannot be removed. It
// returns runner.ErrNotFound if there is no such volume.
func (s *Store) Ref(name, containerID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; !ok {
		return noSuchVolume("get", name)
	}
	if s.refs[name] == nil {
		s.refs[name] = make(map[string]bool)
	}
	s.refs[name][containerID] = true
	return nil
}

// Unref says that a container uses no volume any more.
func (s *Store) Unref(containerID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, ids := range s.refs {
		delete(ids, containerID)
		if len(ids) == 0 {
			delete(s.refs, name)
		}
	}
}

func randomID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

func byName(a, b volume.Volume) int { return cmp.Compare(a.Name, b.Name) }
