package auth

import (
	"fmt"
	"strings"

	"github.com/berth-registry/berth/registry"
)

// TagPatterns are patterns of tags in repositories. They are not changed once they
// were made. None match nothing.
type TagPatterns struct{ patterns []tagPattern }

type tagPattern struct{ text, repos, tags string }

// NewTagPatterns reads patterns of the form REPOSITORIES:TAGS, "**:v*" for example:
// a pattern of repositories, see ValidPattern, and a tag in which "*" stands for
// any characters.
func NewTagPatterns(patterns []string) (*TagPatterns, error) {
	t := &TagPatterns{}
	for i, text := range patterns {
		repos, tags, ok := strings.Cut(text, ":")
		if !ok || !ValidPattern(repos) || !validTagPattern(tags) {
			return nil, fmt.Errorf(`pattern %d: %q: want REPOSITORIES:TAGS, such as "team/**:v*"`, i+1, clip(text))
		}
		t.patterns = append(t.patterns, tagPattern{text, repos, tags})
	}
	return t, nil
}

// validTagPattern says whether there is a tag that the pattern could match.
func validTagPattern(s string) bool {
	// "*" may stand for a letter anywhere, which makes no valid tag invalid.
	tag := strings.ReplaceAll(s, "*", "")
	return s != "" && (tag == "" || registry.ValidTag(tag) || s[0] == '*' && registry.ValidTag("x"+tag))
}

// Match returns the first pattern that matches a tag of a repository.
func (t *TagPatterns) Match(repo, tag string) (pattern string, ok bool) {
	if t == nil {
		return "", false
	}
	for _, p := range t.patterns {
		if Glob(p.tags, tag) && Match(p.repos, repo) {
			return p.text, true
		}
	}
	return "", false
}
