package api

import (
	"context"
	"path"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api/classic"
)

// buildClassic makes an image for a client that knows only the builder before
// BuildKit.
func (x *exchange) buildClassic(req runner.BuildRequest) error {
	switch {
	case req.Remote == remoteSession:
		return runner.Errorf(runner.ErrInvalid, "experimental session with v1 builder is no longer supported, use builder version v2 (BuildKit) instead")
	case len(req.Outputs) > 0:
		return runner.Errorf(runner.ErrInvalid, "outputs need builder version v2 (BuildKit)")
	}
	req.NoSyntax = true // to this builder, it is a comment
	return x.withProgress(func(p runner.Progress) error {
		if !x.isSet("q") {
			_, err := x.runClassic(req, p)
			return err
		}
		var held heldMessages
		id, err := x.runClassic(req, held.hold)
		if err != nil {
			held.send(p)
			return err
		}
		p(jsonstream.Message{Stream: id + "\n"})
		return nil
	})
}

// runClassic builds and tells of it.
func (x *exchange) runClassic(req runner.BuildRequest, p runner.Progress) (imageID string, err error) {
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	source, err := x.buildSource(ctx, &req, p)
	if err != nil {
		return "", err
	}
	b := &classicBuild{req: req, p: p, removals: x.isSetOrAbsent("rm") || x.isSet("forcerm"), cancel: cancel}
	if source != nil {
		defer source.Close()
		plain, err := unpacked(source)
		if err != nil {
			return "", err
		}
		defer plain.Close()
		b.source = watchContext(plain, b.dockerfile())
		defer b.source.Close()
		req.Context = b.source
	}
	result, err := x.engine.Build(ctx, req, b.update)
	if err := b.outcome(err); err != nil {
		return "", err
	}
	b.out.Finish(result.ImageID)
	if x.v.buildAux() {
		aux(p, "", build.Result{ID: result.ImageID})
	}
	b.say("Successfully built " + classic.Short(result.ImageID) + "\n")
	for _, name := range req.Names {
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			b.say("Successfully tagged " + reference.FamiliarString(reference.TagNameOnly(ref)) + "\n")
		}
	}
	return result.ImageID, nil
}

// classicBuild is a build that is told of as by the classic builder.
type classicBuild struct {
	req      runner.BuildRequest
	p        runner.Progress
	removals bool            // tell that containers of steps are removed
	source   *watchedContext // nil: BuildKit gets the context itself
	cancel   func()          // ends the build

	out *classic.Output
	err error // found here
}

func (b *classicBuild) say(text string) { b.p(jsonstream.Message{Stream: text}) }

// dockerfile is its path in the context.
func (b *classicBuild) dockerfile() string {
	if b.req.Dockerfile == "" {
		return dockerfileName
	}
	return b.req.Dockerfile
}

// update hears what BuildKit does.
func (b *classicBuild) update(s *client.SolveStatus) {
	if b.err == nil {
		b.err = b.begin()
	}
	if b.err != nil {
		b.cancel()
		return
	}
	b.out.Update(s)
}

// begin begins to tell, once, when the context has come. What it finds wrong with
// it is said as Docker says it.
func (b *classicBuild) begin() error {
	if b.out != nil {
		return nil
	}
	plan, err := b.plan()
	if err == nil {
		b.out = classic.New(plan, b.removals, b.p)
	}
	return err
}

// plan reads the Dockerfile. There is no plan if it is not known.
func (b *classicBuild) plan() (*classic.Plan, error) {
	if b.source == nil {
		return nil, nil
	}
	file, known, err := b.source.found()
	switch {
	case err != nil:
		return nil, runner.Errorf(runner.ErrInvalid, "reading the build context: %w", err)
	case !known || file.present && !file.plain:
		return nil, nil
	case !file.present:
		return nil, runner.Errorf(runner.ErrInvalid, "Cannot locate specified Dockerfile: %s", b.dockerfile())
	}
	return classic.Parse(b.dockerfile(), file.content, classic.Options{Target: b.req.Target, Args: b.req.Args, Labels: b.req.Labels})
}

// outcome is the error of a build that has ended with err, and nil if it went
// well. What was found here explains what BuildKit stumbled on.
func (b *classicBuild) outcome(err error) error {
	if b.err == nil {
		b.err = b.begin()
	}
	if b.err != nil {
		return b.err
	}
	return classic.Failure(err)
}

// heldMessages are sent only if the build fails.
type heldMessages struct {
	list []jsonstream.Message
	size int
}

// maxHeld is how many bytes of messages are held at most: the newest.
const maxHeld = 1 << 20

func (h *heldMessages) hold(m jsonstream.Message) {
	h.list = append(h.list, m)
	h.size += len(m.Stream)
	for h.size > maxHeld && len(h.list) > 1 {
		h.size -= len(h.list[0].Stream)
		h.list = h.list[1:]
	}
}

func (h *heldMessages) send(p runner.Progress) {
	for _, m := range h.list {
		p(m)
	}
}

// isGit says whether a remote context is a repository, which BuildKit fetches.
func isGit(remote string) bool {
	if strings.HasPrefix(remote, "http://") || strings.HasPrefix(remote, "https://") {
		where, _, _ := strings.Cut(remote, "#")
		return path.Ext(where) == ".git"
	}
	for _, prefix := range []string{"git://", "git@", "ssh://", "github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return true
		}
	}
	return false
}
