package settings

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Source is where it is: "berth.yaml:3", "environment BERTH_HTTP_ADDR" or
	// what a Setting says. It is empty if nobody knows.
	Source string
	// Key is the key, unless Source tells it.
	Key string
	// Message says what was expected and what was found.
	Message string
}

// Error returns a single line.
func (p *Problem) Error() string {
	parts := []string{p.Source, p.Key, p.Message}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// maxShown is how much is shown of what was found, in bytes.
const maxShown = 80

// Quote shows text that was found.
func Quote(s string) string {
	if len(s) > maxShown {
		return strconv.Quote(s[:maxShown]) + "..."
	}
	return strconv.Quote(s)
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]+$`)

// show shows the name of a key or variable, in quotes only if need be.
func show(name string) string {
	if len(name) <= maxShown && plain.MatchString(name) {
		return name
	}
	return Quote(name)
}

// hint says what may be meant with the unknown key path in a section.
func (s *Schema[T]) hint(section, path string) string {
	if k, ok := s.Lookup(path); ok && k.Section() != "" { // as one word, http.addr: "..."
		return fmt.Sprintf(" (write %s below %s)", k.Name(), k.Section())
	}
	var paths []string
	for _, k := range s.Keys {
		if k.Name() == path {
			return didYouMean(k.Path)
		}
		paths = append(paths, k.Section(), k.Path)
	}
	if near := suggest(path, paths); near != "" {
		return didYouMean(near)
	}
	return expectedOneOf(s.children(section))
}

func didYouMean(name string) string { return " (did you mean " + name + "?)" }

func expectedOneOf(names []string) string {
	return " (expected one of " + strings.Join(names, ", ") + ")"
}

// maxSlips is how many slips of the keyboard a suggestion forgives.
const maxSlips = 3

// suggest returns the candidate that somebody who wrote name may have meant, or
// "".
func suggest(name string, candidates []string) string {
	best, least := "", min(maxSlips, max(1, len(name)/3))+1
	if len(name) > maxShown {
		return ""
	}
	for _, c := range candidates {
		if c == "" { // the section of a key that stands by itself
			continue
		}
		if n := distance(name, c); n < least {
			best, least = c, n
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
