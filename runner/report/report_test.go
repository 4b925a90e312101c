package report_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/report"
)

const digestA, digestB = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

// to is the registries of the tests.
func to(hosts ...string) report.Options {
	o := report.Options{Interval: 10 * time.Minute}
	for _, h := range hosts {
		o.Registries = append(o.Registries, report.Registry{Host: h})
	}
	return o
}

// wants checks which images the only report since the last one has.
func (n *node) wants(host string, images ...string) {
	n.t.Helper()
	list := n.reports(host)
	if len(list) != 1 || fmt.Sprint(list[0].Images) != fmt.Sprint(images) {
		n.t.Errorf("reported to %s: %+v, want %v", host, list, images)
		return
	}
	if s := list[0]; s.Node != "n1" || s.TTL != 30*time.Minute || s.login != "" {
		n.t.Errorf("reported as %+v", s)
	}
}

// The start, each change and each interval are reported, to each registry its own.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runs("a.test/app"+digestA, "b.test/app"+digestB, "c.test/app"+digestA)
		defer n.report(n, to("a.test", "b.test"))()
		synctest.Wait()
		n.wants("a.test", "a.test/app"+digestA)
		n.wants("b.test", "b.test/app"+digestB)

		n.runs("a.test/app"+digestA, "b.test/app"+digestB, "c.test/app"+digestA)
		time.Sleep(time.Minute)
		if list := append(n.reports("a.test"), n.reports("b.test")...); len(list) != 0 {
			t.Errorf("nothing has changed, and it reports %+v", list)
		}

		// Many changes at once are one, and only whom they concern hears of it.
		for i := range 100 {
			n.runs(fmt.Sprintf("a.test/app-%d%s", i, digestA), "b.test/app"+digestB)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		n.wants("a.test", "a.test/app-99"+digestA)
		if list := n.reports("b.test"); len(list) != 0 {
			t.Errorf("what concerns another is reported: %+v", list)
		}

		n.runs()
		time.Sleep(4 * time.Second)
		n.wants("a.test")
		n.wants("b.test")

		time.Sleep(10 * time.Minute)
		n.wants("a.test")
		n.wants("b.test")
		if said := n.log(); len(said) != 2 || !strings.Contains(strings.Join(said, ""), `msg="the registry keeps what runs here" registry=a.test node=n1 images=1 for=30m0s`) {
			t.Errorf("logged: %q", said)
		}
		if list := n.reports("c.test"); len(list) != 0 {
			t.Errorf("who is not to know is told: %+v", list)
		}
	})
}

// Changes that come all the time are reported all the same, and not all the time.
func TestRestless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		stop := n.report(n, to("a.test"))
		for i := range 600 {
			n.runs(fmt.Sprintf("a.test/app-%d%s", i, digestA))
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		if list := n.reports("a.test"); len(list) < 10 || len(list) > 21 {
			t.Errorf("%d reports in a minute", len(list))
		}
	})
}

// A listener that was too slow has missed something, and looks.
func TestEventsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		defer n.report(n, to("a.test"))()
		synctest.Wait()
		n.wants("a.test")
		n.mu.Lock()
		n.images = []reference.Canonical{canonical(t, "a.test/app"+digestA)}
		lost := n.heard
		n.heard = make(chan events.Message, 1)
		n.mu.Unlock()
		close(lost)
		time.Sleep(4 * time.Second)
		n.wants("a.test", "a.test/app"+digestA)
		n.runs("a.test/app" + digestB)
		time.Sleep(10 * time.Second)
		n.wants("a.test", "a.test/app"+digestB)
	})
}

// A registry that fails is tried again, ever more seldom, whatever changes; it is
// logged when that changes, with what to do.
func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.New("connection refused"), "nothing, if it is back soon"},
		{fmt.Errorf("x: %w", runner.ErrUnauthorized), "username and password_file of registries.a.test"},
		{fmt.Errorf("x: %w", runner.ErrForbidden), "report.name"},
		{fmt.Errorf("x: %w", runner.ErrNotFound), "do not set report for registries.a.test"},
		{fmt.Errorf("x: %w", runner.ErrConflict), "report.name"},
		{fmt.Errorf("x: %w", runner.ErrInvalid), "report.interval"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, fails := newNode(t), true
			n.answer = func(context.Context, sent) ([]reference.Canonical, error) {
				n.mu.Lock()
				defer n.mu.Unlock()
				if fails {
					return nil, tt.err
				}
				return nil, nil
			}
			defer n.report(n, to("a.test"))()
			for i := range 2 * 60 * 60 { // two hours
				n.runs(fmt.Sprintf("a.test/app-%d%s", i, digestA))
				time.Sleep(time.Second)
			}
			list := n.reports("a.test")
			if len(list) < 15 || len(list) > 40 {
				t.Errorf("%v: %d reports in two hours", tt.err, len(list))
			}
			if soon := list[1].at; soon < 2*time.Second || soon > 5*time.Second {
				t.Errorf("%v: tried again after %s", tt.err, soon)
			}
			if said := n.log(); len(said) != 1 || !strings.Contains(said[0], "level=WARN") || !strings.Contains(said[0], tt.want) {
				t.Errorf("%v: logged %q, want %s", tt.err, said, tt.want)
			}
			n.mu.Lock()
			fails = false
			n.mu.Unlock()
			time.Sleep(11 * time.Minute)
			if said := n.log(); len(said) != 1 || !strings.Contains(said[0], "keeps what runs here") {
				t.Errorf("%v: when it is over: %q", tt.err, said)
			}
		})
	}
}

// What the registry does not keep is said, once.
func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.answer = func(_ context.Context, s sent) ([]reference.Canonical, error) { return s.Images, nil }
		n.runs("a.test/app" + digestA)
		defer n.report(n, to("a.test"))()
		time.Sleep(time.Hour)
		if said := n.log(); len(said) != 1 || !strings.Contains(said[0], "does not keep some") || !strings.Contains(said[0], "a.test/app"+digestA) {
			t.Errorf("logged %q", said)
		}
		n.runs("a.test/app" + digestB)
		time.Sleep(time.Minute)
		if said := n.log(); len(said) != 1 || !strings.Contains(said[0], "a.test/app"+digestB) {
			t.Errorf("logged %q", said)
		}
	})
}

// A registry that never answers is given up after a while, keeps no other from its
// reports, and the runner from its end.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.answer = func(ctx context.Context, s sent) ([]reference.Canonical, error) {
			if s.host == "b.test" {
				return nil, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		stop := n.report(n, to("a.test", "b.test"))
		time.Sleep(30 * time.Second)
		n.runs("b.test/app" + digestB)
		time.Sleep(5 * time.Second)
		if list := n.reports("b.test"); len(list) != 2 {
			t.Errorf("the other registry hears %+v", list)
		}
		time.Sleep(40 * time.Second)
		if list := n.reports("a.test"); len(list) != 2 {
			t.Errorf("after a minute: %+v", list)
		}
		n.log()
		begin := time.Now()
		stop()
		if d := time.Since(begin); d != 0 {
			t.Errorf("it stops after %s", d)
		}
		if said := n.log(); said[0] != "" {
			t.Errorf("its end is a failure: %q", said)
		}
	})
}

// The password is read for each report, and never shown.
func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		o := to("a.test")
		o.Registries[0].Username, o.Registries[0].PasswordFile = "node", file
		for i, tt := range []struct{ content, login, log string }{
			{"none", "", "no such file"},
			{"", "", ""}, // it cannot be read, as before
			{"pass-a\n", "node:pass-a", "keeps what runs here"},
			{"pass-b\npass-c\n", "", "is not a line with a password"},
			{strings.Repeat("pass-x", 20_000), "", ""},
			{"pass-d", "node:pass-d", "keeps what runs here"},
		} {
			if tt.content != "none" {
				if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if i == 0 {
				defer n.report(n, o)()
			} else {
				n.reports("a.test")
				n.log()
				time.Sleep(11 * time.Minute)
			}
			synctest.Wait()
			var logins []string
			for _, s := range n.reports("a.test") {
				logins = append(logins, s.login)
			}
			if tt.login == "" && len(logins) > 0 || tt.login != "" && (len(logins) == 0 || logins[len(logins)-1] != tt.login) {
				t.Errorf("%.20q: signed in as %q, want %q", tt.content, logins, tt.login)
			}
			if said := strings.Join(n.log(), "\n"); !strings.Contains(said, tt.log) || strings.Contains(said, "pass-") {
				t.Errorf("%.20q: logged %s, want %s", tt.content, said, tt.log)
			}
		}
	})
}
