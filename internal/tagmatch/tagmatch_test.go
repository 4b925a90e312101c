package tagmatch

import "testing"

func TestVersion(t *testing.T) {
	for tag, want := range map[string]string{
		"1.2.3": "1.2.3", "v1.2.3": "1.2.3", "1.2.3-rc.1": "1.2.3-rc.1", "1.2.3_build": "1.2.3+build",
		"1.2": "", "20250101": "", "latest": "", "": "", "vv1.2.3": "", "01.2.3": "",
	} {
		got := ""
		if v := Version(tag); v != nil {
			got = v.String()
		}
		if got != want {
			t.Errorf("Version(%q) = %q, want %q", tag, got, want)
		}
	}
}

func TestWhole(t *testing.T) {
	r, err := Whole("a|b")
	if err != nil || !r.MatchString("b") || r.MatchString("ab") || r.MatchString("b\n") {
		t.Errorf("a|b: %v, error %v", r, err)
	}
	if _, err := Whole("a)(b"); err == nil {
		t.Error("a)(b is taken for a regular expression")
	}
	if r, err := Whole(""); r != nil || err != nil {
		t.Errorf("nothing: %v, error %v", r, err)
	}
}
