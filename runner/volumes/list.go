package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"

	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// List returns the volumes that the filters choose, sorted by name. They are name
// (a pattern), label, dangling and driver; others are runner.ErrInvalid.
func (s *Store) List(_ context.Context, filters runner.Filters) ([]volume.Volume, error) {
	if err := filters.Allow("name", "label", "dangling", "driver"); err != nil {
		return nil, err
	}
	dangling, given, err := boolFilter(filters, "dangling")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []volume.Volume{}
	for name, v := range s.volumes {
		matches := func(pattern string) bool {
			ok, err := regexp.MatchString(pattern, name)
			return pattern == name || err == nil && ok
		}
		used := len(s.refs[name]) > 0
		if filters.MatchFunc("name", matches) && filters.Match("driver", Driver) && filters.MatchLabels("label", v.Labels) && (!given || dangling != used) {
			list = append(list, s.describe(v))
		}
	}
	slices.SortFunc(list, byName)
	return list, nil
}

// boolFilter returns the value of a filter that is yes or no.
func boolFilter(filters runner.Filters, key string) (value, given bool, err error) {
	values, given := filters[key]
	for i, text := range values {
		v, err := strconv.ParseBool(text)
		if err != nil || i > 0 && v != value {
			return false, true, runner.Errorf(runner.ErrInvalid, "invalid filter '%s=%v'", key, values)
		}
		value = v
	}
	return value, given && len(values) > 0, nil
}

// Prune removes the anonymous volumes, with the filter "all" all volumes, that no
// container refers to. Further filters are label and, for labels that must not be
// there, "label!". Volumes with options stay, as removing them gives nothing back.
// It returns runner.ErrConflict while another Prune is at work.
func (s *Store) Prune(ctx context.Context, filters runner.Filters) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if !s.pruning.CompareAndSwap(false, true) {
		return report, runner.Errorf(runner.ErrConflict, "a prune operation is already running")
	}
	defer s.pruning.Store(false)
	if err := filters.Allow("all", "label", "label!"); err != nil {
		return report, err
	}
	all, _, err := boolFilter(filters, "all")
	if err != nil {
		return report, err
	}
	for _, name := range s.prunable(all, filters) {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		size, err := s.size(name)
		if err != nil {
			return report, err
		}
		err = s.Remove(ctx, name, false)
		if errors.Is(err, runner.ErrConflict) || errors.Is(err, runner.ErrNotFound) {
			continue // a container has come to use it, or somebody else has removed it
		}
		if err != nil {
			return report, err
		}
		report.VolumesDeleted = append(report.VolumesDeleted, name)
		report.SpaceReclaimed += uint64(size)
	}
	return report, nil
}

func (s *Store) prunable(all bool, filters runner.Filters) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, v := range s.volumes {
		_, anonymous := v.Labels[AnonymousLabel]
		excluded := slices.ContainsFunc(filters["label!"], func(label string) bool {
			return runner.Filters{"label": {label}}.MatchLabels("label", v.Labels)
		})
		if len(s.refs[name]) == 0 && len(v.Options) == 0 && (all || anonymous) && !excluded && filters.MatchLabels("label", v.Labels) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Usage returns a volume's size in bytes and how many containers refer to it. The
// size of one with options is not looked for, and is -1.
func (s *Store) Usage(_ context.Context, name string) (volume.UsageData, error) {
	size, err := s.size(name)
	if err != nil {
		return volume.UsageData{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return volume.UsageData{Size: size, RefCount: int64(len(s.refs[name]))}, nil
}

// size counts the bytes of the files of a volume, those with several names once.
// Containers may change them meanwhile: nothing outside is looked at.
func (s *Store) size(name string) (sum int64, err error) {
	s.mu.Lock()
	v, ok := s.volumes[name]
	s.mu.Unlock()
	switch {
	case !ok:
		return 0, noSuchVolume("get", name)
	case len(v.Options) > 0: // it may be the disk of another host
		return -1, nil
	}
	root, err := os.OpenRoot(s.files(name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // removed by hand
	}
	if err != nil {
		return 0, err
	}
	defer root.Close()
	seen := make(map[uint64]bool)
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreNotExist(err)
		}
		fi, err := d.Info()
		if err != nil {
			return ignoreNotExist(err)
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		sum += fi.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size of volume %s: %w", name, err)
	}
	return sum, nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
