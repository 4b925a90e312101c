package api

import (
	"maps"
	"slices"
	"testing"

	"github.com/berth-registry/berth/runner"
)

func TestParseFilters(t *testing.T) {
	for s, want := range map[string]runner.Filters{
		"":                           nil,
		"{}":                         {},
		"null":                       {},
		`{"a":{"x":true}}`:           {"a": {"x"}},
		`{"a":{"y":true,"x":true}}`:  {"a": {"x", "y"}},
		`{"a":{"x":false}}`:          {"a": {"x"}},
		`{"a":["y","x"]}`:            {"a": {"y", "x"}},
		`{"a":["x"],"b":{"y":true}}`: {"a": {"x"}, "b": {"y"}},
		`{"a":{},"b":null,"c":[]}`:   {},
	} {
		got, err := parseFilters(s)
		if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"x", "[]", `{"a":"x"}`, `{"a":[1]}`, `{"a":{"x":"y"}}`, `{"a":`, `"a"`} {
		if got, err := parseFilters(s); err == nil || status(err) != 400 {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func FuzzParseFilters(f *testing.F) {
	f.Add(`{"a":{"x":true},"b":["y"]}`)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFilters(s)
		if err != nil {
			if status(err) != 400 {
				t.Fatalf("%v", err)
			}
			return
		}
		for key, values := range got {
			if len(values) == 0 {
				t.Fatalf("%q has no values", key)
			}
		}
	})
}

func TestParseMoment(t *testing.T) {
	for s, want := range map[string]string{
		"1136073845":           "2006-01-01T00:04:05Z",
		"1136073845.5":         "2006-01-01T00:04:05.5Z",
		"1136073845.000000001": "2006-01-01T00:04:05.000000001Z",
		"2006-01-02T15:04:05Z": "2006-01-02T15:04:05Z",
		"-1":                   "1969-12-31T23:59:59Z",
	} {
		got, err := parseMoment(s)
		if err != nil || got.UTC().Format("2006-01-02T15:04:05.999999999Z07:00") != want {
			t.Errorf("%s: %v, %v, want %s", s, got.UTC(), err, want)
		}
	}
	for _, s := range []string{"", "0"} {
		if got, err := parseMoment(s); err != nil || !got.IsZero() {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"x", "1.x", "1.-5", "T", "99999999999999999999"} {
		if got, err := parseMoment(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}
