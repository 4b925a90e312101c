package runner

import (
	"slices"
	"strings"
)

// Filters choose among objects: a key's values are alternatives, and every key
// must hold.
type Filters map[string][]string

// Match says whether value is one of the key's, or the key is not given.
func (f Filters) Match(key, value string) bool {
	want, ok := f[key]
	return !ok || slices.Contains(want, value)
}

// MatchFunc says whether match holds for one of the key's values, or the key is
// not given.
func (f Filters) MatchFunc(key string, match func(string) bool) bool {
	want, ok := f[key]
	return !ok || slices.ContainsFunc(want, match)
}

// MatchLabels says whether labels has every label that the key names, as KEY or
// KEY=VALUE. Unlike other keys, all of its values must hold.
func (f Filters) MatchLabels(key string, labels map[string]string) bool {
	for _, want := range f[key] {
		name, value, exact := strings.Cut(want, "=")
		got, ok := labels[name]
		if !ok || exact && got != value {
			return false
		}
	}
	return true
}

// Allow returns an error that names a key that is not among the allowed.
func (f Filters) Allow(keys ...string) error {
	for key := range f {
		if !slices.Contains(keys, key) {
			return Errorf(ErrInvalid, "invalid filter '%s'", key)
		}
	}
	return nil
}
