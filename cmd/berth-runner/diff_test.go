package main

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
)

// TestHideSecrets has secrets be told apart without a part of their digests.
func TestHideSecrets(t *testing.T) {
	t.Parallel()
	with := func(contents ...string) deploy.Stack {
		s := deploy.Service{Name: "web"}
		for i, c := range contents {
			s.Files = append(s.Files, deploy.File{Name: string(rune('a' + i)), Content: digest.FromString(c), Secret: i < 2})
		}
		return deploy.Stack{Services: []deploy.Service{s}}
	}
	before, after := with("1234", "same", "config"), with("5678", "same", "config")
	was := before.Services[0].Files[0].Content
	a, b := before, after
	hideSecrets(&a, &b)
	x, y := a.Services[0].Files, b.Services[0].Files
	if x[0].Content == y[0].Content || x[1].Content != y[1].Content || x[2].Content != digest.FromString("config") {
		t.Errorf("%v and %v are told", x, y)
	}
	for _, f := range append(x[:2:2], y[:2]...) {
		if f.Content.Validate() == nil {
			t.Errorf("%s is told by its digest", f.Name)
		}
	}
	if before.Services[0].Files[0].Content != was {
		t.Error("the stack itself has changed")
	}
}
