package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// createImage pulls an image or makes one of an archive: one route does both.
func (x *exchange) createImage() (err error) {
	var platform string
	if x.v.pullPlatform() {
		if platform, err = x.namedPlatform(); err != nil {
			return err
		}
	}
	if x.q.Get("fromImage") != "" {
		return x.pullImage(platform)
	}
	return x.importImage(platform)
}

func (x *exchange) pullImage(platform string) error {
	name, ref, err := named(x.q.Get("fromImage"), x.q.Get("tag"))
	if err != nil {
		return err
	}
	if reference.FamiliarName(ref) == "scratch" {
		return runner.Errorf(runner.ErrForbidden, "'scratch' is a reserved name")
	}
	req := runner.PullRequest{Ref: name, All: reference.IsNameOnly(ref), Platform: platform, Auth: x.credentials()}
	return x.withProgress(func(p runner.Progress) error {
		return x.engine.PullImage(x.r.Context(), req, p)
	})
}

// named joins a name to a tag or digest that stands beside it. The name stays as
// the client wrote it: what a short one means is the engine's to say.
func named(name, tag string) (string, reference.Named, error) {
	name = strings.TrimSuffix(name, ":") // as some clients write "all tags"
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if tag == "" {
		return name, ref, nil
	}
	bare := reference.TrimNamed(ref)
	if tail := strings.TrimPrefix(ref.String(), bare.String()); tail != "" {
		name = strings.TrimSuffix(name, tail)
	}
	if d, errDigest := digest.Parse(tag); errDigest == nil {
		ref, err = reference.WithDigest(bare, d)
		name += "@" + tag
	} else {
		ref, err = reference.WithTag(bare, tag)
		name += ":" + tag
	}
	if err != nil {
		return "", nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return name, ref, nil
}

func (x *exchange) importImage(platform string) error {
	repo, tag, err := x.repoTag()
	if err != nil {
		return err
	}
	source := x.q.Get("fromSrc")
	req := runner.ImportRequest{Repo: repo, Tag: tag, Message: x.q.Get("message"), Changes: x.q["changes"], Platform: platform}
	if req.Message == "" {
		req.Message = "Imported from " + source
	}
	ctx := x.r.Context()
	return x.withProgress(func(p runner.Progress) error {
		archive := io.NopCloser(x.r.Body)
		if source != "-" {
			if archive, err = download(ctx, source, p); err != nil {
				return err
			}
		}
		defer archive.Close()
		id, err := x.engine.ImportImage(ctx, req, archive, p)
		if err != nil {
			return err
		}
		p.Status("", id)
		return nil
	})
}

// download fetches an archive that is to be imported.
func download(ctx context.Context, source string, p runner.Progress) (io.ReadCloser, error) {
	if source == "" {
		return nil, runner.Errorf(runner.ErrInvalid, "neither fromImage nor fromSrc is given")
	}
	if !strings.Contains(source, "://") {
		source = "http://" + source
	}
	u, err := url.Parse(source)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, runner.Errorf(runner.ErrPrecondition, "%w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		_ = resp.Body.Close()
		return nil, runner.Errorf(runner.ErrPrecondition, "failed to GET %s with status %s", u.Redacted(), resp.Status)
	}
	p.Status("", fmt.Sprintf("Downloading from %s", u.Redacted()))
	return resp.Body, nil
}

func (x *exchange) pushImage() (err error) {
	name, ref, err := named(x.name, x.q.Get("tag"))
	if err != nil {
		return err
	}
	if _, ok := ref.(reference.Digested); ok {
		return runner.Errorf(runner.ErrInvalid, "cannot push a digest reference")
	}
	req := runner.PushRequest{Ref: name, All: reference.IsNameOnly(ref), Auth: x.credentials()}
	if x.v.pushPlatform() {
		if req.Platform, err = x.platform("platform"); err != nil {
			return err
		}
	}
	return x.withProgress(func(p runner.Progress) error {
		return x.engine.PushImage(x.r.Context(), req, p)
	})
}

// saveImages sends images as an archive.
func (x *exchange) saveImages() (err error) {
	refs := x.q["names"]
	if x.name != "" {
		refs = []string{x.name}
	}
	if len(refs) == 0 {
		return runner.Errorf(runner.ErrInvalid, "no images to save are named")
	}
	platforms, err := x.transferPlatforms()
	if err != nil {
		return err
	}
	x.w.Header()["Content-Type"] = []string{"application/x-tar"}
	return x.engine.SaveImages(x.r.Context(), refs, platforms, x.w)
}

// transferPlatforms are those to save or load; none are all.
func (x *exchange) transferPlatforms() ([]string, error) {
	if !x.v.savePlatform() {
		return nil, nil
	}
	if len(x.q["platform"]) > 1 && !x.v.transferPlatforms() {
		return nil, runner.Errorf(runner.ErrInvalid, "multiple platform parameters are not supported in this API version; use API version 1.52 or later")
	}
	return x.platforms("platform")
}

func (x *exchange) loadImages() error {
	platforms, err := x.transferPlatforms()
	if err != nil {
		return err
	}
	if len(platforms) > 0 {
		return runner.Errorf(runner.ErrNotImplemented, "loading single platforms of an image is not supported by Berth")
	}
	quiet := x.isSetOrAbsent("quiet")
	return x.withProgress(func(p runner.Progress) error {
		return x.engine.LoadImages(x.r.Context(), x.r.Body, quiet, p)
	})
}
