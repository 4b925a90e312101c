package stack

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
)

// variables replaces the variables of a Compose file, and knows which had no value. It
// also reads the booleans of YAML 1.1.
type variables struct {
	unset []string
	words []word
}

// word is a boolean that is one to YAML 1.1 alone.
type word struct{ key, value, means string }

// option has compose-go use it.
func (v *variables) option(o *loader.Options) {
	o.Interpolate.Substitute = v.substitute
	casts := maps.Clone(o.Interpolate.TypeCastMapping)
	for path, cast := range casts {
		if is, err := cast("true"); err == nil && is == true {
			casts[path] = v.boolean(path.Last(), cast)
		}
	}
	o.Interpolate.TypeCastMapping = casts
}

// boolean reads a word as what it was to YAML 1.1, as compose-go does, which would tell
// of it by a logger of its own.
func (v *variables) boolean(key string, cast interpolation.Cast) interpolation.Cast {
	return func(value string) (any, error) {
		means := value
		switch strings.ToLower(value) {
		case "y", "yes", "on":
			means = "true"
		case "n", "no", "off":
			means = "false"
		}
		if w := (word{key, value, means}); means != value && !slices.Contains(v.words, w) {
			v.words = append(v.words, w)
		}
		return cast(means)
	}
}

// maxNested bounds how many variables the default of one may have.
const maxNested = 50

// substitute replaces the variables of one value. They are taken one by one: of
// several at once compose-go tells only the first that is not set, and looks through
// all of the text for each.
func (v *variables) substitute(text string, values template.Mapping) (string, error) {
	var out strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 {
			out.WriteString(text)
			return out.String(), nil
		}
		out.WriteString(text[:i])
		text = text[i:]
		n := variable(text)
		switch {
		case strings.HasPrefix(text, "$$"):
			n = 2
			out.WriteByte('$')
		case n == 1:
			out.WriteByte('$')
		case strings.Count(text[:n], "${") > maxNested:
			return "", fmt.Errorf("a variable with more than %d others in its default", maxNested)
		default:
			value, err := template.SubstituteWithOptions(text[:n], values,
				template.WithoutLogging, template.WithReplacementFunction(v.replace))
			if err != nil {
				return "", err
			}
			out.WriteString(value)
		}
		text = text[n:]
	}
}

// variable returns the length of the variable that a text with a dollar sign begins
// with; 1: there is none.
func variable(text string) int {
	if strings.HasPrefix(text, "${") {
		if n := closing(text); n > 0 {
			return n
		}
		return len(text)
	}
	n := 1
	for n < len(text) && (text[n] == '_' || 'a' <= text[n]|0x20 && text[n]|0x20 <= 'z' || n > 1 && '0' <= text[n] && text[n] <= '9') {
		n++
	}
	return n
}

func (v *variables) replace(text string, values template.Mapping, c *template.Config) (string, error) {
	value, known, err := template.DefaultReplacementAppliedFunc(text, values, c)
	if !known && err == nil {
		v.unset = append(v.unset, strings.Trim(text, "${}"))
	}
	return value, err
}

// closing returns the length of "${...}" at the start of a text, or 0.
func closing(text string) int {
	open := 0
	for i := range len(text) {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			open++
		case text[i] == '}':
			if open--; open <= 0 {
				return i + 1
			}
		}
	}
	return 0
}

// tell warns of what had no value; on a node there are no variables at all, and one
// without a default is an error.
func (v *variables) tell(ps *problems) {
	for _, w := range v.words {
		file, line := ps.src.matching(regexp.QuoteMeta(w.key) + `["']?:\s*["']?` + regexp.QuoteMeta(w.value) + `\b`)
		ps.warnings = append(ps.warnings, Problem{File: file, Line: line, Message: fmt.Sprintf("%s: %s is taken to be %s: say so", w.key, w.value, w.means)})
	}
	slices.Sort(v.unset)
	for _, name := range slices.Compact(v.unset) {
		file, line := ps.src.mention(name)
		told := Problem{File: file, Line: line}
		if ps.src.local {
			told.Message = "the variable " + name + " is not set: it is replaced by nothing"
			ps.warnings = append(ps.warnings, told)
			continue
		}
		told.Message = "the variable " + name + " has no value here: a published file has its variables replaced, and a dollar sign written as $$"
		ps.errs = append(ps.errs, told)
	}
}

// mention returns the first line where a variable is used in the files that are known.
func (s *sources) mention(name string) (file string, line int) {
	return s.matching(`\$(` + regexp.QuoteMeta(name) + `\b|\{` + regexp.QuoteMeta(name) + `\b)`)
}

// matching returns the first line that has a text like that in the files that are known.
func (s *sources) matching(form string) (file string, line int) {
	used := regexp.MustCompile(form)
	for _, f := range s.files {
		if at := used.FindIndex(f.data); at != nil {
			return f.name, 1 + strings.Count(string(f.data[:at[0]]), "\n")
		}
	}
	return s.files[0].name, 0
}
