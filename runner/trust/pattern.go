package trust

import (
	"errors"
	"regexp"
	"slices"
	"strings"
)

// maxPattern is the greatest length of a pattern in bytes.
const maxPattern = 1024

// glob compiles a pattern that must match all of a text: * stands for any part between
// slashes, or some of one, and ** for any number of parts, none included.
func glob(pattern string) (*regexp.Regexp, error) {
	if pattern == "" || len(pattern) > maxPattern {
		return nil, errors.New("a pattern has from 1 to 1024 bytes")
	}
	var b strings.Builder
	b.WriteString(`\A(?s:`)
	for i := 0; i < len(pattern); {
		rest := pattern[i:]
		first := i == 0 || pattern[i-1] == '/'
		switch {
		case rest == "/**":
			b.WriteString(`(/.*)?`)
			i += 3
		case first && strings.HasPrefix(rest, "**/"):
			b.WriteString(`(.*/)?`)
			i += 3
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			i += 2
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			i++
		default:
			n := strings.IndexAny(rest[1:], "*/") + 1
			if n == 0 {
				n = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			i += n
		}
	}
	b.WriteString(`)\z`)
	return regexp.Compile(b.String())
}

func globs(patterns []string) ([]*regexp.Regexp, error) {
	var all []*regexp.Regexp
	for _, p := range patterns {
		re, err := glob(p)
		if err != nil {
			return nil, err
		}
		all = append(all, re)
	}
	return all, nil
}

func matchesAny(patterns []*regexp.Regexp, s string) bool {
	return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(s) })
}
