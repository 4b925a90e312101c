package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
)

// removed is what 'berth rm --json' prints of each reference.
type removed struct {
	Reference string        `json:"reference"`
	Action    string        `json:"action"` // untagged, deleted or failed
	Digest    digest.Digest `json:"digest,omitempty"`
	Error     string        `json:"error,omitempty"`
}

func newRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm [HOST[:PORT]/]REPOSITORY:TAG|@DIGEST...",
		Short: "Remove tags or manifests",
		Long: `Remove tags or manifests.

A tag is removed alone: the image that it points to stays, under its other tags
and its digest. A digest removes the image, with all tags that point to it. An
image that an index needs cannot be removed before the index.

All that can be removed is; the exit code is 1 if anything could not.

With --json: {"results": [{"reference": NAME, "action": "untagged", "deleted" or
"failed", "digest": DIGEST, "error": MESSAGE}, ...]}.`,
		Example: "  berth rm mongo:7\n  berth rm mongo@sha256:0123...",
		Args:    cobra.MinimumNArgs(1),
	}
	f := addClientFlags(cmd)
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names := make([]name, len(args))
		for i, arg := range args { // nothing is removed if any is wrong
			n, err := f.parse(arg)
			if err != nil {
				return err
			}
			if (n.Tag == "") == (n.Digest == "") {
				return cli.Usage(fmt.Errorf("%q: want a tag or a digest, to say what to remove", arg))
			}
			names[i] = n
		}
		return f.removeAll(cmd.Context(), cmd.OutOrStdout(), names)
	}
	return cmd
}

func (f *clientFlags) removeAll(ctx context.Context, w io.Writer, names []name) error {
	var all struct {
		Results []removed `json:"results"`
	}
	var errs []error
	for _, n := range names {
		r, err := f.remove(ctx, n)
		if err != nil {
			r.Action, r.Error = "failed", err.Error()
			errs = append(errs, err)
		}
		all.Results = append(all.Results, r)
		if !f.json && err == nil {
			if _, err := fmt.Fprintln(w, r); err != nil {
				return err
			}
		}
	}
	if f.json {
		errs = append(errs, printJSON(w, all))
	}
	return errors.Join(errs...)
}

// String says what happened, to a user.
func (r removed) String() string {
	switch {
	case r.Action == "deleted":
		return fmt.Sprintf("deleted %s, and the tags that pointed to it", r.Reference)
	case r.Digest != "":
		return fmt.Sprintf("untagged %s; the image stays as %s", r.Reference, r.Digest)
	default:
		return "untagged " + r.Reference
	}
}

func (f *clientFlags) remove(ctx context.Context, n name) (removed, error) {
	r := removed{Reference: n.String(), Digest: n.Digest}
	c, err := f.open(n.Host)
	if err != nil {
		return r, err
	}
	if n.Digest != "" {
		r.Action = "deleted"
		err := c.DeleteManifest(ctx, n.Repo, n.Digest)
		if errors.Is(err, registry.ErrReferenced) {
			return r, fmt.Errorf("cannot remove %s: %w", n, err) // it says what to do
		}
		return r, explain(err, n.Host, "cannot remove "+n.String())
	}
	r.Action = "untagged"
	desc, err := c.StatManifest(ctx, n.Repo, n.ref())
	if err == nil {
		r.Digest = desc.Digest
		err = c.DeleteTag(ctx, n.Repo, n.Tag)
	}
	if errors.Is(err, registry.ErrMethod) || errors.Is(err, registry.ErrDigestInvalid) {
		return r, fmt.Errorf("cannot remove %s: this registry removes no tags, only digests: %s", n, r.Digest)
	}
	return r, explain(err, n.Host, "cannot remove "+n.String())
}
