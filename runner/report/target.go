package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

// target is a registry that is reported to.
type target struct {
	*Reporter
	registry Registry
	changed  chan struct{} // something may have
	said     outcome       // what was logged last
}

// run reports until ctx ends.
func (t *target) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		images := t.images(ctx)
		unknown, err := t.send(ctx, images)
		if ctx.Err() != nil {
			return
		}
		t.tell(ctx, images, unknown, err)
		if err == nil {
			failures = 0
			t.rest(ctx, images)
			continue
		}
		pause(ctx, t.pauseAfter(failures))
		failures++
	}
}

// rest waits until it is time to report again, or something else runs than was
// reported.
func (t *target) rest(ctx context.Context, reported []reference.Canonical) {
	// A little sooner than that: so many nodes that start together spread over time.
	timer := time.NewTimer(t.o.Interval - rand.N(t.o.Interval/10)) //nolint:gosec // it is no secret
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-t.changed:
			if !pause(ctx, t.settle) || !same(t.images(ctx), reported) {
				return
			}
		}
	}
}

func (t *target) pauseAfter(failures int) time.Duration {
	d := min(firstPause<<min(failures, 16), t.o.Interval)
	return d/2 + rand.N(d/2+1) //nolint:gosec // it is no secret
}

// images are those of the registry that containers run.
func (t *target) images(ctx context.Context) []reference.Canonical {
	return slices.DeleteFunc(t.engine.ImagesInUse(ctx), func(name reference.Canonical) bool {
		return reference.Domain(name) != t.registry.Host
	})
}

func same(a, b []reference.Canonical) bool {
	return slices.EqualFunc(a, b, func(a, b reference.Canonical) bool { return a.String() == b.String() })
}

// send reports once.
func (t *target) send(ctx context.Context, images []reference.Canonical) (unknown []reference.Canonical, err error) {
	var login *registry.AuthConfig
	if t.registry.Username != "" {
		password, err := ReadPassword(t.registry.PasswordFile)
		if err != nil {
			return nil, passwordError{err}
		}
		login = &registry.AuthConfig{Username: t.registry.Username, Password: password}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return t.engine.ReportUse(ctx, t.registry.Host, login, runner.UseReport{Node: t.o.Node, TTL: lasts * t.o.Interval, Images: images})
}

// passwordError is a failure to read the password.
type passwordError struct{ error }

func (e passwordError) Unwrap() error { return e.error }

// ReadPassword reads the file of a password, a line. It is read anew for each use: so a
// password can be changed.
func ReadPassword(path string) (string, error) {
	const most = 64 << 10
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(b), "\r\n")
	switch {
	case len(b) > most || strings.ContainsAny(password, "\r\n\x00"):
		return "", fmt.Errorf("%s is not a line with a password", path)
	case password == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return password, nil
}

// outcome is how a report went, as far as people should hear of it.
type outcome struct {
	kind    error  // of the failure; nil if it was none
	unknown string // what the registry does not keep
	ok      bool
}

// errFailed is the kind of failures that are of no other.
var errFailed = errors.New("it cannot be reached")

// tell logs how a report went, if that is not as before.
func (t *target) tell(ctx context.Context, images, unknown []reference.Canonical, err error) {
	now, advice := outcome{ok: err == nil, unknown: strings.Join(words(unknown), " ")}, ""
	if err != nil {
		advice, now.kind = t.explain(err)
	}
	if now == t.said {
		return
	}
	t.said = now
	log := t.o.Log.With("registry", t.registry.Host, "node", t.o.Node)
	switch {
	case err != nil:
		log.WarnContext(ctx, "cannot report to the registry what runs here: it may remove that when the last report ends", "error", err, "do", advice)
	case len(unknown) > 0:
		log.WarnContext(ctx, "the registry does not keep some of what runs here: it has it not, or the account may not pull it",
			"images", len(images), "not_kept", words(unknown[:min(len(unknown), 10)]))
	default:
		log.InfoContext(ctx, "the registry keeps what runs here", "images", len(images), "for", (lasts * t.o.Interval).String())
	}
}

func words(names []reference.Canonical) []string {
	var all []string
	for _, name := range names {
		all = append(all, name.String())
	}
	return all
}

// explain says what kind of failure an error is, and what to do about it.
func (t *target) explain(err error) (advice string, kind error) {
	key := "registries." + t.registry.Host
	if _, ok := errors.AsType[passwordError](err); ok {
		return "put the password into the file that " + key + ".password_file names", errPassword
	}
	for _, known := range []struct {
		kind   error
		advice string
	}{
		{runner.ErrUnauthorized, "see that username and password_file of " + key + " are those of an account of the registry"},
		{runner.ErrForbidden, "if another account reports for a node of this name, choose another name with report.name"},
		{runner.ErrNotFound, "if it is no berth registry, or an old one, do not set report for " + key},
		{runner.ErrConflict, "if another runner has this name, choose another with report.name"},
		{runner.ErrInvalid, "see that report.name and report.interval are what the registry takes"},
	} {
		if errors.Is(err, known.kind) {
			return known.advice, known.kind
		}
	}
	return "nothing, if it is back soon: it is tried again", errFailed
}

// errPassword is the kind of passwordError.
var errPassword = errors.New("the password cannot be read")
