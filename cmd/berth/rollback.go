package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
)

// rolledBack is what 'berth rollback --json' prints.
type rolledBack struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Was       digest.Digest `json:"was,omitempty"` // none: there was no such tag
}

func newRollbackCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback [HOST[:PORT]/]REPOSITORY:TAG [--to DIGEST]",
		Short: "Move a tag back to what it named before",
		Long: `Move a tag back to what it named before; a tag that was deleted is there again. It is
a push, with its rules: of who may push, and which tags are immutable. To do it twice
moves the tag forward again.

With --to it is moved to the image of that digest, which must be in the repository;
'berth history' shows what the tag has named, and what of that is still there.

With --json: {"reference": NAME, "digest": DIGEST, "was": DIGEST}.`,
		Example: "  berth rollback team/app:prod\n  berth rollback team/app:prod --to sha256:0123...",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	to := cmd.Flags().String("to", "", "move it to the manifest of this `DIGEST`")
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := f.parse(args[0])
		if err != nil {
			return err
		}
		if n.Tag == "" || n.Digest != "" {
			return cli.Usage(fmt.Errorf("%q: want a tag, and its target with --to", args[0]))
		}
		var d digest.Digest
		if *to != "" {
			if d, err = registry.ParseDigest(*to); err != nil {
				return cli.Usage(fmt.Errorf("--to: %w", err))
			}
		}
		r, err := f.rollback(cmd.Context(), n, d)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), r)
		}
		said := fmt.Sprintf("%s is %s; it was %s", n, r.Digest, r.Was)
		switch r.Was {
		case r.Digest:
			said = fmt.Sprintf("%s is %s already", n, r.Digest)
		case "":
			said = fmt.Sprintf("%s is %s again", n, r.Digest)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
		return err
	}
	return cmd
}

// rollback moves a tag to a digest; if that is empty, to what it named before.
func (f *clientFlags) rollback(ctx context.Context, n name, to digest.Digest) (r rolledBack, err error) {
	r.Reference = n.String()
	what := "cannot roll back " + r.Reference
	c, err := f.open(n.Host)
	if err != nil {
		return r, err
	}
	now, err := c.StatManifest(ctx, n.Repo, n.ref())
	if err != nil && !errors.Is(err, registry.ErrManifestUnknown) && !errors.Is(err, registry.ErrNameUnknown) {
		return r, explain(err, n.Host, what)
	}
	r.Was, r.Digest = now.Digest, to
	if to == "" {
		h, err := f.history(ctx, n, admin.MaxMoves)
		if err != nil {
			return r, err
		}
		if r.Digest, err = before(h, now.Digest); err != nil {
			return r, fmt.Errorf("%s: %w", what, err)
		}
	}
	if r.Was == r.Digest {
		return r, nil
	}
	return r, moveTo(ctx, c, n, r.Digest)
}

// before finds what a tag named before it named now, which may be nothing.
func before(h admin.History, now digest.Digest) (digest.Digest, error) {
	for _, m := range h.Moves {
		switch d, err := registry.ParseDigest(m.Digest); {
		case m.Digest == "" || m.Digest == string(now):
			continue
		case err != nil:
			return "", fmt.Errorf("the server's answer: %w", err)
		case !m.Kept:
			return "", fmt.Errorf("what it named before, %s, is gone; 'berth history' shows what is there, and --to moves it to that", d)
		default:
			return d, nil
		}
	}
	if h.More {
		return "", fmt.Errorf("it named nothing else in its %d latest moves: say --to", len(h.Moves))
	}
	return "", errors.New("it has never named anything else")
}

// moveTo points a tag at a manifest that is there.
func moveTo(ctx context.Context, c *remote.Client, n name, to digest.Digest) error {
	what := fmt.Sprintf("cannot move %s to %s", n, to)
	data, desc, err := c.Manifest(ctx, n.Repo, registry.Reference{Digest: to})
	if errors.Is(err, registry.ErrManifestUnknown) {
		return fmt.Errorf("%s: that is not there (any more): %w", what, err)
	}
	if err != nil {
		return explain(err, n.Host, what)
	}
	_, err = c.PushManifest(ctx, n.Repo, registry.ManifestPush{Data: data, MediaType: desc.MediaType, Digest: to, Tags: []string{n.Tag}})
	return explain(err, n.Host, what)
}
