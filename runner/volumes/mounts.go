package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountState is who uses the files of a volume now.
type mountState struct {
	filling sync.Mutex

	mu    sync.Mutex // held while it is mounted and unmounted, which may take long
	users map[string]bool
}

// Fill calls fill with the directory of a volume's files, mounted if the volume is,
// and one call after the other. staging begins the names that fill may use on the
// same file system until it returns, and for the next call if it is interrupted.
func (s *Store) Fill(ctx context.Context, name string, fill func(dir, staging string) error) error {
	v, m, err := s.mountOf(name)
	if err != nil {
		return err
	}
	m.filling.Lock()
	defer m.filling.Unlock()
	user := "fill " + randomID()
	if err := s.Mount(ctx, name, user); err != nil {
		return err
	}
	dir := s.files(name)
	staging := dir
	if v.Options[optType] != "" {
		staging = filepath.Join(dir, ".berth")
	}
	err = fill(dir, staging)
	_, uerr := s.Unmount(user)
	return errors.Join(err, uerr)
}

// mountOf returns a volume and who uses its files, or runner.ErrNotFound.
func (s *Store) mountOf(name string) (info, *mountState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		return info{}, nil, noSuchVolume("get", name)
	}
	m := s.mounts[name]
	if m == nil {
		m = &mountState{users: make(map[string]bool)}
		s.mounts[name] = m
	}
	return v, m, nil
}

// Mount says that the files of a volume are used from now on, by a container or
// whatever the user's name stands for. For the first user, what the volume's
// options name is mounted on its Mountpoint: on the host, where other programs
// find it, too. To say it twice is to say it once.
//
// It returns runner.ErrNotFound if there is no such volume.
func (s *Store) Mount(ctx context.Context, name, user string) error {
	v, m, err := s.mountOf(name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.Options[optType] != "" {
		if err := s.mountOnce(ctx, v); err != nil {
			return fmt.Errorf("error while mounting volume '%s': %w", s.files(name), err)
		}
	}
	s.hold(m, name, user)
	return nil
}

func (s *Store) mountOnce(ctx context.Context, v info) error {
	target := s.files(v.Name)
	mounted, err := mountinfo.Mounted(target)
	if err != nil || mounted {
		return err
	}
	return mountDevice(ctx, v.Options, target)
}

// hold notes a user of a volume, whose mountState the caller has locked.
func (s *Store) hold(m *mountState, name, user string) {
	m.users[user] = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[user] == nil {
		s.held[user] = make(map[string]bool)
	}
	s.held[user][name] = true
}

// Adopt says, after a start of the daemon, that somebody uses a volume since
// before. Nothing is mounted.
func (s *Store) Adopt(name, user string) error {
	_, m, err := s.mountOf(name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.hold(m, name, user)
	return nil
}

// Unmount says that a user uses no volume any more, and returns which it did. Of
// what nobody else uses, nothing stays mounted.
func (s *Store) Unmount(user string) ([]string, error) {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.held[user]))
	delete(s.held, user)
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		v, m, err := s.mountOf(name)
		if err != nil {
			continue // it was removed, and with it what was mounted
		}
		m.mu.Lock()
		delete(m.users, user)
		errs = append(errs, s.letGo(v))
		m.mu.Unlock()
	}
	return names, errors.Join(errs...)
}

// Settle unmounts what nobody uses, as is left by a daemon that was killed. Those
// who use volumes since before must have been adopted.
func (s *Store) Settle() error {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.volumes))
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		v, m, err := s.mountOf(name)
		if err != nil || v.Options[optType] == "" {
			continue
		}
		m.mu.Lock()
		errs = append(errs, s.letGo(v))
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}

// letGo unmounts a volume that nobody uses, and whose mountState the caller has
// locked. A program of the host that has files of it open keeps those, not the
// mount.
func (s *Store) letGo(v info) error {
	s.mu.Lock()
	m := s.mounts[v.Name]
	s.mu.Unlock()
	if v.Options[optType] == "" || m != nil && len(m.users) > 0 {
		return nil
	}
	target := s.files(v.Name)
	for { // it may have been mounted more than once, by others
		mounted, err := mountinfo.Mounted(target)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !mounted {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount volume %s: %w", v.Name, err)
		}
	}
}
