package stack

import (
	"reflect"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// TestFields walks the types of compose-go: each of their keys is translated or
// refused, so that a newer compose-go brings none that is lost.
func TestFields(t *testing.T) {
	t.Parallel()
	known := fields()
	reached := map[string]bool{}
	var walk func(pattern string, typ reflect.Type)
	walk = func(pattern string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer:
			walk(pattern, typ.Elem())
		case reflect.Slice:
			if typ.Elem().Kind() == reflect.Struct || typ.Elem().Kind() == reflect.Pointer {
				walk(pattern+".[]", typ.Elem())
			}
		case reflect.Map:
			if e := typ.Elem(); e.Kind() == reflect.Struct || (e.Kind() == reflect.Pointer && e.Elem().Kind() == reflect.Struct) {
				walk(join(pattern, "*"), e)
			}
		case reflect.Struct:
			for _, key := range yamlKeys(typ) {
				at := join(pattern, key.name)
				reached[at] = true
				why, ok := known[at]
				if !ok {
					t.Errorf("%s is neither translated nor refused", at)
				}
				if ok && why == "" && !opaque(at) {
					walk(at, key.typ)
				}
			}
		default:
		}
	}
	walk("", reflect.TypeFor[types.Project]())
	for pattern := range known {
		if !reached[pattern] {
			t.Errorf("compose-go has no key %s", pattern)
		}
	}
}

type yamlKey struct {
	name string
	typ  reflect.Type
}

// yamlKeys are the keys of a type as compose-go decodes it, without extensions.
func yamlKeys(typ reflect.Type) []yamlKey {
	var out []yamlKey
	for f := range typ.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-" || f.Type == reflect.TypeFor[types.Extensions]():
		case strings.Contains(options, "inline"):
			out = append(out, yamlKeys(f.Type)...)
		case name == "":
			out = append(out, yamlKey{strings.ToLower(f.Name), f.Type})
		default:
			out = append(out, yamlKey{name, f.Type})
		}
	}
	return out
}
