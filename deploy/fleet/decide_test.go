package fleet

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	a, b, c := version("a"), version("b"), version("c")
	says := func(d, tag digest.Digest, attempt int64) runner.FollowAnswer {
		return runner.FollowAnswer{Digest: d, Tag: tag, Rollout: runner.FollowRollout{Attempt: attempt}}
	}
	failed := failure{Digest: b, Attempt: 2}
	for name, test := range map[string]struct {
		s    situation
		a    runner.FollowAnswer
		what action
		d    digest.Digest
	}{
		"nothing runs":             {situation{}, says(a, a, 0), deployIt, a},
		"no tag":                   {situation{running: a}, says("", "", 0), nothing, ""},
		"it runs":                  {situation{running: a}, says(a, a, 0), nothing, ""},
		"another":                  {situation{running: a}, says(b, b, 0), deployIt, b},
		"not its turn":             {situation{running: a}, says(a, b, 0), nothing, ""},
		"by hand":                  {situation{foreign: true}, says(b, b, 0), deployIt, b},
		"by hand, now":             {situation{running: a, busy: 7}, says(b, b, 0), nothing, ""},
		"deploys":                  {situation{running: a, busy: 7, deploying: b}, says(b, b, 0), nothing, ""},
		"paused meanwhile":         {situation{running: a, busy: 7, deploying: b}, says(a, b, 0), nothing, ""},
		"moved back":               {situation{running: a, busy: 7, deploying: b}, says(a, a, 0), cancelIt, b},
		"moved on":                 {situation{running: a, busy: 7, deploying: b}, says(c, c, 0), cancelIt, b},
		"moved on, and waits":      {situation{running: a, busy: 7, deploying: b}, says(a, c, 0), cancelIt, b},
		"the tag is gone":          {situation{running: a, busy: 7, deploying: b}, says("", "", 0), nothing, ""},
		"told to go on":            {situation{running: a, busy: 7, deploying: b}, says(b, c, 0), nothing, ""},
		"failed":                   {situation{running: a, failed: failed}, says(b, b, 2), nothing, ""},
		"failed, and resumed":      {situation{running: a, failed: failed}, says(b, b, 3), deployIt, b},
		"failed, and another":      {situation{running: a, failed: failed}, says(c, c, 2), deployIt, c},
		"failed, and back":         {situation{running: a, failed: failed}, says(a, a, 2), nothing, ""},
		"something else, and back": {situation{failed: failed}, says(a, a, 2), deployIt, a},
	} {
		if what, d := decide(test.s, test.a); what != test.what || d != test.d {
			t.Errorf("%s: %d %s, want %d %s", name, what, nameOf(d), test.what, nameOf(test.d))
		}
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	at := func(name string) string { return ref + "@" + version(name).String() }
	history := []deploy.Revision{{Number: 4, From: at("b"), Outcome: deploy.Paused}, {Number: 3, From: at("c")}, {Number: 2, From: "compose.yaml"}, {Number: 1, From: at("a")}}
	for name, test := range map[string]struct {
		st   deploy.Status
		want situation
	}{
		"none yet":   {deploy.Status{Deploying: 3}, situation{busy: 3, deploying: version("c")}},
		"ours":       {deploy.Status{Revision: 1}, situation{running: version("a")}},
		"both":       {deploy.Status{Revision: 1, Deploying: 3}, situation{running: version("a"), busy: 3, deploying: version("c")}},
		"by hand":    {deploy.Status{Revision: 2}, situation{foreign: true}},
		"by hand is": {deploy.Status{Revision: 3, Deploying: 2}, situation{running: version("c"), busy: 2}},
		"paused":     {deploy.Status{Revision: 3, Deploying: 4}, situation{running: version("c")}},
		"forgotten":  {deploy.Status{Revision: 9}, situation{foreign: true}},
	} {
		if got := observe(test.st, history, ref); got.running != test.want.running || got.deploying != test.want.deploying || got.busy != test.want.busy || got.foreign != test.want.foreign {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestDigestOf(t *testing.T) {
	t.Parallel()
	d := version("a").String()
	for from, want := range map[string]string{
		ref + "@" + d: d,
		"registry.example:5000/stacks/shop:other@" + d: d,
		"registry.example:5000/stacks/shop@" + d:       d,
		"registry.example:5000/stacks/other:prod@" + d: "",
		"registry.example/stacks/shop:prod@" + d:       "",
		ref:                                            "", "": "", "@" + d: "", ref + "@sha256:1": "", "compose.yaml": "", ref + "@" + d + "@" + d: "",
	} {
		if got := digestOf(from, ref); got.String() != want {
			t.Errorf("%s is of %s: want %s", from, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	if got := line(strings.Repeat("ä", 400)); len(got) > maxLine+len("…") || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long line is %q", got)
	}
	if got := line("a\xffb"); got != "a?b" {
		t.Errorf("a line that is no text is %q", got)
	}
}
