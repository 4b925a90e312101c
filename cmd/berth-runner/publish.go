package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/artifact"
	"github.com/berth-registry/berth/deploy/stack"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
)

const (
	// publishTime is how long a registry may take for what is pushed, or for an image.
	publishTime = 2 * time.Minute
	// resolving is how many images are asked for at a time.
	resolving = 8
)

func newPublishCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish [-f COMPOSE-FILE]... REGISTRY/REPOSITORY:TAG",
		Short: "Store a stack, a Compose file, in a registry, for nodes that follow its tag",
		Long: `Store a stack in a registry, as an OCI artifact in the format of docker compose publish,
and move a tag to it. Nodes whose configuration has that tag in 'follow' deploy it, as
many at a time as x-berth.rollout of the Compose file says; 'berth rollout status' shows
how that goes. Moving the tag back is the rollback: 'berth rollout undo', or 'berth
rollback'.

Each image is pinned to the digest that its tag has now, so that all nodes run the same.
Variables are replaced, and configs stand in the file; secrets are not published: nodes
have them in files of their own. The same stack is the same artifact: published again,
nothing moves.

It talks to registries itself, and needs no runner, with the credentials of 'docker
login' and the certificates in /etc/docker/certs.d; by plain HTTP only to localhost and
private addresses.

With --json: {"reference", "digest", "images": {SERVICE: IMAGE}, "rollout", "published"}.`,
		Example: "  berth-runner publish registry.example.com/stacks/shop:prod\n" +
			"  berth-runner publish -f compose.yaml -f production.yaml registry.example.com/stacks/shop:prod\n" +
			"  berth-runner publish --print localhost:5000/stacks/shop:prod",
		Args: cobra.ExactArgs(1),
	}
	p := &publishing{}
	files := addComposeFlags(cmd)
	cmd.Flags().BoolVar(&p.dry, "dry-run", false, "ask for the images, print the digest that the stack would have, and push nothing")
	cmd.Flags().BoolVar(&p.print, "print", false, "print the Compose file that would be stored, and push nothing")
	cmd.Flags().BoolVar(&p.json, "json", false, "print JSON, in a shape that stays")
	cmd.Flags().StringArrayVar(&p.insecure, "insecure-registry", nil, "take any certificate of this `HOST[:PORT]`, and plain HTTP")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if p.target, err = taggedName(args[0]); err != nil {
			return cli.Usage(err)
		}
		l, err := files.load(cmd.Context(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return p.run(cmd.Context(), l, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// taggedName reads a name that says its tag.
func taggedName(s string) (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: want REGISTRY/REPOSITORY:TAG", s, err)
	}
	tagged, ok := named.(reference.NamedTagged)
	if _, digested := named.(reference.Digested); !ok || digested {
		return nil, fmt.Errorf("%q: want a tag, REGISTRY/REPOSITORY:TAG, and no digest", s)
	}
	return tagged, nil
}

// publishing is a stack on its way to a registry.
type publishing struct {
	target           reference.NamedTagged
	dry, print, json bool
	insecure         []string

	remote *remote.Client
	logins map[string]registry.AuthConfig // by host
}

// published is what was stored.
type published struct {
	Reference string            `json:"reference"` // with its digest
	Digest    digest.Digest     `json:"digest"`
	Images    map[string]string `json:"images"` // by service
	Rollout   json.RawMessage   `json:"rollout,omitempty"`
	Published bool              `json:"published"` // or it was only tried
}

func (p *publishing) run(ctx context.Context, l *stack.Loaded, stdout, stderr io.Writer) (err error) {
	if p.remote, err = remote.New(remote.Options{Insecure: p.insecure, UserAgent: "berth-runner/" + version}); err != nil {
		return cli.Usage(err)
	}
	if p.logins, err = imageCredentials(ctx, deploy.Stack{Services: append([]deploy.Service{{Image: p.target.Name()}}, l.Stack.Services...)}); err != nil {
		return err
	}
	digests, err := p.resolve(ctx, l.Stack.Services)
	if err != nil {
		return err
	}
	file, warnings, err := l.Pin(digests)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		fmt.Fprintf(stderr, "warning: %s\n", printable(warning))
	}
	if p.print {
		_, err := stdout.Write(file)
		return err
	}
	b := artifact.Bundle{Compose: file}
	out := published{Images: map[string]string{}, Published: !p.dry}
	if l.Rollout != nil {
		if out.Rollout, err = json.Marshal(l.Rollout); err != nil {
			return err
		}
		b.Annotations = map[string]string{artifact.AnnotationRollout: string(out.Rollout)}
	}
	if out.Digest, err = p.store(ctx, b); err != nil {
		return err
	}
	out.Reference = p.target.String() + "@" + out.Digest.String()
	for _, s := range l.Stack.Services {
		out.Images[s.Name] = withDigest(s.Image, digests[s.Name])
	}
	return p.tell(stdout, out)
}

// tell prints what was stored.
func (p *publishing) tell(w io.Writer, out published) error {
	if p.json {
		return printJSON(w, out)
	}
	for _, service := range slices.Sorted(maps.Keys(out.Images)) {
		if _, err := fmt.Fprintf(w, "%s: %s\n", printable(service), printable(out.Images[service])); err != nil {
			return err
		}
	}
	text := "published " + out.Reference
	if !out.Published {
		text = "would publish " + out.Reference
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// store pushes the stack, and returns its digest.
func (p *publishing) store(ctx context.Context, b artifact.Bundle) (digest.Digest, error) {
	if p.dry {
		desc, err := artifact.Describe(b)
		return desc.Digest, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	target, err := p.remote.Target(ctx, p.target, p.login(p.target))
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.target, err)
	}
	desc, err := artifact.Push(ctx, target, p.target.Tag(), b)
	if err != nil {
		return "", fmt.Errorf("%s: %w%s", p.target, err, hintOf(err, reference.Domain(p.target)))
	}
	return desc.Digest, nil
}

// hintOf says what to do about an error of a registry.
func hintOf(err error, host string) string {
	if errors.Is(err, runner.ErrUnauthorized) || errors.Is(err, runner.ErrForbidden) {
		return fmt.Sprintf(" (log in with 'docker login %s', or ask for access)", host)
	}
	return ""
}

// login is what docker knows of the registry of a name.
func (p *publishing) login(name reference.Named) *registry.AuthConfig {
	if login, ok := p.logins[reference.Domain(name)]; ok {
		return &login
	}
	return nil
}

// resolve asks the registries which digests the images of services have now. The error
// tells of all that are not there.
func (p *publishing) resolve(ctx context.Context, services []deploy.Service) (map[string]digest.Digest, error) {
	found, errs := make([]digest.Digest, len(services)), make([]error, len(services))
	var wait sync.WaitGroup
	turns := make(chan struct{}, resolving)
	for i, s := range services {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			ctx, cancel := context.WithTimeout(ctx, publishTime)
			defer cancel()
			found[i], errs[i] = p.digestOf(ctx, s)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	digests := map[string]digest.Digest{}
	for i, s := range services {
		digests[s.Name] = found[i]
	}
	return digests, nil
}

func (p *publishing) digestOf(ctx context.Context, s deploy.Service) (digest.Digest, error) {
	named, err := reference.ParseNormalizedNamed(s.Image)
	if err != nil {
		return "", fmt.Errorf("service %s: image %q: %w", s.Name, s.Image, err)
	}
	desc, err := p.remote.Repository(named, p.login(named)).Resolve(ctx, "")
	if err != nil {
		return "", fmt.Errorf("service %s: image %s cannot be pinned: %w%s", s.Name, s.Image, err, hintOf(err, reference.Domain(named)))
	}
	return desc.Digest, nil
}

// withDigest is an image as it was asked for, with the digest that it has.
func withDigest(image string, d digest.Digest) string {
	if strings.Contains(image, "@") {
		return image
	}
	return image + "@" + d.String()
}
