package images

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"

	"github.com/berth-registry/berth/runner"
)

// List returns the images that the options choose, the newest first. users, if
// not nil, tells how many containers there are of each image, by ID.
func (s *Store) List(_ context.Context, opts runner.ImageListOptions, users func() map[string]int) ([]image.Summary, error) {
	choose, err := s.chooser(opts.Filters)
	if err != nil {
		return nil, err
	}
	var counts map[string]int
	if users != nil {
		counts = users()
	}
	all := s.all()
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(createdOf(b).Compare(createdOf(a)), cmp.Compare(a.id, b.id))
	})
	list := []image.Summary{}
	for _, e := range all {
		sum, ok := choose(e)
		if !ok {
			continue
		}
		if users != nil {
			sum.Containers = int64(counts[e.id])
		}
		if opts.Manifests {
			d := e.rec.Manifest
			sum.Descriptor = &d
			sum.Manifests = []image.ManifestSummary{s.manifestSummary(e)}
		}
		list = append(list, sum)
	}
	return list, nil
}

// chooser returns what makes the summary of an image, or refuses it.
func (s *Store) chooser(f runner.Filters) (func(*entry) (image.Summary, bool), error) {
	if err := f.Allow("dangling", "label", "label!", "before", "since", "reference", "until"); err != nil {
		return nil, err
	}
	byDangling, dangling, err := boolFilter(f, "dangling")
	if err != nil {
		return nil, err
	}
	match, err := s.matcher(f)
	if err != nil {
		return nil, err
	}
	return func(e *entry) (image.Summary, bool) {
		sum := image.Summary{
			ID: e.id, Created: createdOf(e).Unix(), Labels: e.config.Config.Labels, Size: e.size,
			Containers: -1, SharedSize: -1, RepoTags: []string{}, RepoDigests: []string{},
		}
		tags, digests := namesOf(e)
		for _, r := range tags {
			if matchesReference(f, s.Familiar(r), r) {
				sum.RepoTags = append(sum.RepoTags, s.Familiar(r))
			}
		}
		for _, r := range digests {
			if matchesReference(f, s.Familiar(r), r) {
				sum.RepoDigests = append(sum.RepoDigests, s.Familiar(r))
			}
		}
		none := len(sum.RepoTags) == 0 && len(sum.RepoDigests) == 0
		switch {
		case !match(e),
			none && len(f["reference"]) > 0,
			byDangling && dangling && len(tags) > 0,
			byDangling && !dangling && len(tags) == 0 && len(digests) == 0:
			return sum, false
		}
		return sum, true
	}, nil
}

// matcher returns what knows the images that the filters by label and age choose.
func (s *Store) matcher(f runner.Filters) (func(*entry) bool, error) {
	var before, since, until []time.Time
	for key, times := range map[string]*[]time.Time{"before": &before, "since": &since} {
		for _, ref := range f[key] {
			e, err := s.find(ref)
			if err != nil {
				return nil, err
			}
			*times = append(*times, createdOf(e))
		}
	}
	for _, v := range f["until"] {
		t, err := parseUntil(v, time.Now())
		if err != nil {
			return nil, err
		}
		until = append(until, t)
	}
	return func(e *entry) bool {
		created, labels := createdOf(e), e.config.Config.Labels
		for _, t := range before {
			if !created.Before(t) {
				return false
			}
		}
		for _, t := range since {
			if !created.After(t) {
				return false
			}
		}
		for _, t := range until {
			if !created.Before(t) {
				return false
			}
		}
		if len(f["label!"]) > 0 && (runner.Filters{"label": f["label!"]}).MatchLabels("label", labels) {
			return false
		}
		return f.MatchLabels("label", labels)
	}, nil
}

func boolFilter(f runner.Filters, key string) (given, value bool, err error) {
	for _, v := range f[key] {
		b, err := strconv.ParseBool(v)
		if err != nil || given && b != value {
			return false, false, runner.Errorf(runner.ErrInvalid, "invalid filter '%s=%s'", key, v)
		}
		given, value = true, b
	}
	return given, value, nil
}

// parseUntil reads a time, a Unix time in seconds, or a duration before now.
func parseUntil(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil {
		return time.UnixMicro(int64(sec * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, runner.Errorf(runner.ErrInvalid, "invalid filter 'until=%s'", v)
}

// matchesReference says whether a name is one of those that a filter by reference
// means: with or without its tag, and with or without the default host.
func matchesReference(f runner.Filters, familiar string, ref reference.Named) bool {
	return f.MatchFunc("reference", func(pattern string) bool {
		if ok, err := reference.FamiliarMatch(pattern, ref); err == nil && ok {
			return true
		}
		short, err := reference.ParseNormalizedNamed(familiar)
		if err != nil {
			return false
		}
		ok, err := reference.FamiliarMatch(pattern, short)
		return err == nil && ok
	})
}

// createdOf is when the image says that it was made; the epoch if it does not.
func createdOf(e *entry) time.Time {
	if e.config.Created == nil {
		return time.Unix(0, 0)
	}
	return *e.config.Created
}
