package replicating_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/berth-registry/berth/replicating"
)

// TestSpec: what is wrong is named by its key, and a password in a URL is not shown.
func TestSpec(t *testing.T) {
	good := replicating.Spec{Name: "b", URL: "https://b.example.org", Repos: []string{"team/**"}}
	for want, change := range map[string]func(*replicating.Spec){
		"":                          func(*replicating.Spec) {},
		"name: \"\"":                func(s *replicating.Spec) { s.Name = "" },
		"name: \"a/b\"":             func(s *replicating.Spec) { s.Name = "a/b" },
		"name: \"A\"":               func(s *replicating.Spec) { s.Name = "A" },
		"url: want":                 func(s *replicating.Spec) { s.URL = "" },
		"url: want https":           func(s *replicating.Spec) { s.URL = "https://u:hunter2@b.example.org" },
		"url: want https://HOST":    func(s *replicating.Spec) { s.URL = "ftp://b" },
		"repos: want at least one":  func(s *replicating.Spec) { s.Repos = nil },
		"repos: \"Team\" is no":     func(s *replicating.Spec) { s.Repos = []string{"Team"} },
		"tags: \"-x\" is no tag":    func(s *replicating.Spec) { s.Tags = []string{"v*", "-x"} },
		"tags: \"\" is no tag":      func(s *replicating.Spec) { s.Tags = []string{""} },
		"strip: the pattern":        func(s *replicating.Spec) { s.Strip = "other" },
		"strip: the pattern \"team": func(s *replicating.Spec) { s.Strip = "tea" },
		"prefix: \"x/\" is no name": func(s *replicating.Spec) { s.Prefix = "x/" },
		"jobs: -1":                  func(s *replicating.Spec) { s.Jobs = -1 },
		"jobs: 65":                  func(s *replicating.Spec) { s.Jobs = 65 },
		"rate: 1: want at least":    func(s *replicating.Spec) { s.Rate = 1 },
	} {
		s := good
		change(&s)
		_, err := replicating.NewRule(s)
		if want == "" {
			ok(t, err)
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

// FuzzSpec: a Spec is taken or refused, whatever is in it.
func FuzzSpec(f *testing.F) {
	f.Add("b", "https://b", "team/**", "v*", "team", "x", 3, int64(5000))
	f.Add("", "://", "**/**", "*", "", "/", -1, int64(-1))
	f.Fuzz(func(t *testing.T, name, url, repos, tags, strip, prefix string, jobs int, rate int64) {
		r, err := replicating.NewRule(replicating.Spec{
			Name: name, URL: url, Repos: []string{repos}, Tags: []string{tags}, Strip: strip, Prefix: prefix, Jobs: jobs, Rate: rate,
		})
		if err == nil && r.Name() != name {
			t.Errorf("%q is called %q", name, r.Name())
		}
	})
}

// FuzzKey: what is read from a key makes the same key.
func FuzzKey(f *testing.F) {
	f.Add([]byte("team/web\x00tv1"))
	f.Add([]byte("team/web\x00m\x01" + strings.Repeat("x", 32)))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := replicating.ReadKey(b); err == nil && key != string(b) {
			t.Errorf("%q became %q", b, key)
		}
	})
}

// TestText: no credentials in what is shown of an error, and nothing that commands a
// terminal.
func TestText(t *testing.T) {
	err := fmt.Errorf("push: %w", &url.Error{Op: "Get", URL: "https://u:hunter2@b.example.org/token?secret=hunter2", Err: errors.New("a\x1b[2Jb\nc")})
	if got := replicating.Text(err); got != `push: Get "https://b.example.org/token": a [2Jb c` {
		t.Error(got)
	}
	if got := replicating.Text(errors.New(strings.Repeat("ä", 5000))); len(got) > 1010 || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes", len(got))
	}
}
