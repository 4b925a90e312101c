// Package tagmatch reads what a configuration says of tags: ranges of versions, and
// regular expressions that match a tag as a whole.
package tagmatch

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// maxRange is the greatest length of a range of versions in bytes.
const maxRange = 1024

// Version reads a tag as a version of Semantic Versioning 2.0.0, section 2: three
// numbers, and what may follow them. It may start with "v". What follows "+" is
// after "_" in a tag, which cannot have a "+": so Helm writes it. A tag such as 1.2
// or 20250101 is no version, and nil.
func Version(tag string) *semver.Version {
	v, err := semver.StrictNewVersion(strings.Replace(strings.TrimPrefix(tag, "v"), "_", "+", 1))
	if err != nil {
		return nil
	}
	return v
}

// Range reads a range of versions, such as ">=1.2, <3 || ~4.1"; nil if it is empty.
// A pre-release is in it only if the range names one, as ">=1.0.0-0" does.
func Range(s string) (*semver.Constraints, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	if len(s) > maxRange {
		return nil, errors.New("the range is too long")
	}
	c, err := semver.NewConstraint(s)
	if err != nil {
		return nil, fmt.Errorf("%q is no range of versions such as >=1.0.0: %w", s, err)
	}
	return c, nil
}

// Whole compiles a regular expression that must match all of a tag; nil if it is
// empty.
func Whole(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	if _, err := regexp.Compile(expr); err != nil { // alone: "a)(b" is none
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}
