package runner

import (
	"errors"
	"io/fs"
	"testing"
)

func TestFilters(t *testing.T) {
	f := Filters{"status": {"running", "paused"}, "label": {"a", "b=1"}, "name": {}}
	for _, tt := range []struct {
		what      string
		got, want bool
	}{
		{"one of the values", f.Match("status", "paused"), true},
		{"another value", f.Match("status", "exited"), false},
		{"a key that is not given", f.Match("id", "x"), true},
		{"a key without values", f.Match("name", "x"), false},
		{"all labels", f.MatchLabels("label", map[string]string{"a": "", "b": "1"}), true},
		{"a label is missing", f.MatchLabels("label", map[string]string{"b": "1"}), false},
		{"a label has another value", f.MatchLabels("label", map[string]string{"a": "x", "b": "2"}), false},
		{"a function", f.MatchFunc("status", func(s string) bool { return s == "run" }), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v", tt.what, tt.got)
		}
	}
	if err := f.Allow("status", "label", "name"); err != nil {
		t.Error(err)
	}
	if err := f.Allow("status", "label"); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestErrorf(t *testing.T) {
	err := Errorf(ErrNotFound, "no file: %w", fs.ErrNotExist)
	if err.Error() != "no file: file does not exist" {
		t.Errorf("the text is %q", err)
	}
	if !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrConflict) {
		t.Error("the kinds are wrong")
	}
}
