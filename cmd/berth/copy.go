package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry/copying"
)

// copied is what 'berth copy --json' prints.
type copied struct {
	Source      string       `json:"source"`
	Destination string       `json:"destination"`
	Digest      string       `json:"digest"`
	MediaType   string       `json:"mediaType"`
	Manifests   copiedCounts `json:"manifests"`
	Blobs       copiedCounts `json:"blobs"`
	Bytes       int64        `json:"bytes"` // that were sent
}

type copiedCounts struct {
	Copied  int `json:"copied"`
	Mounted int `json:"mounted"` // from another repository of the destination
	Present int `json:"present"` // in the destination already
}

func newCopyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "copy SOURCE DESTINATION",
		Aliases: []string{"cp"},
		Short:   "Copy an image or artifact, between registries or within one",
		Long: `Copy an image or artifact, with all its platforms, between two registries or
within one. What the destination has already is not sent again. Digests stay the
same.

SOURCE and DESTINATION are [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]. A destination
without tag gets the source's.

With --json: {"source", "destination", "digest", "mediaType", "manifests" and
"blobs": {"copied", "mounted", "present"}, "bytes"}; mounted blobs came from
another repository of the destination, bytes are those that were sent.`,
		Example: "  berth copy docker.io/mongo:7 mongo:7\n  berth copy mongo:7 registry.example.org/team/mongo --referrers",
		Args:    cobra.ExactArgs(2),
	}
	f := addClientFlags(cmd)
	referrers := cmd.Flags().Bool("referrers", false, "copy what refers to it, too: signatures, SBOMs and the like")
	jobs := cmd.Flags().IntP("jobs", "j", copying.DefaultJobs, "copy `N` blobs at once")
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		src, err := f.parse(args[0])
		if err != nil {
			return err
		}
		dst, err := f.parse(args[1])
		if err != nil {
			return err
		}
		if *jobs < 1 {
			return cli.Usage(errors.New("--jobs: want 1 or more"))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		o := copying.Options{Jobs: *jobs, Referrers: *referrers}
		return f.copy(ctx, cmd, src, dst, o)
	}
	return cmd
}

func (f *clientFlags) copy(ctx context.Context, cmd *cobra.Command, src, dst name, o copying.Options) error {
	from, err := f.open(src.Host)
	if err != nil {
		return err
	}
	to := from
	if dst.Host != src.Host {
		if to, err = f.open(dst.Host); err != nil {
			return err
		}
	} else if src.Repo != dst.Repo {
		o.MountFrom = src.Repo
	}
	target := copying.Target{Registry: to, Repo: dst.Repo}
	if dst.Tag == "" && dst.Digest == "" {
		dst.Tag = src.ref().Tag
	}
	if dst.Tag != "" {
		target.Tags = []string{dst.Tag}
	}
	want := dst.Digest
	p := f.progress(cmd.ErrOrStderr())
	o.Progress = p.tell
	source := copying.Source{Registry: from, Repo: src.Repo, Ref: src.ref()}
	if want != "" && want != src.Digest {
		if err := sameDigest(ctx, source, want); err != nil {
			return explain(err, src.Host, "cannot copy "+src.String())
		}
		source.Ref.Tag, source.Ref.Digest = "", want
	}
	res, err := copying.Copy(ctx, source, target, o)
	p.end()
	if err != nil {
		host := dst.Host
		if e := (*copying.SourceError)(nil); errors.As(err, &e) {
			host = src.Host
		}
		return explain(err, host, fmt.Sprintf("cannot copy %s to %s", src, dst))
	}
	dst.Digest = res.Root.Digest
	if f.json {
		return printJSON(cmd.OutOrStdout(), copied{
			Source: src.String(), Destination: dst.String(),
			Digest: string(res.Root.Digest), MediaType: res.Root.MediaType,
			Manifests: copiedCounts(res.Manifests), Blobs: copiedCounts(res.Blobs), Bytes: res.Bytes,
		})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", dst, summary(res))
	return err
}

// sameDigest fails unless the source is what the destination is to be.
func sameDigest(ctx context.Context, src copying.Source, want digest.Digest) error {
	desc, err := src.Registry.StatManifest(ctx, src.Repo, src.Ref)
	if err == nil && desc.Digest != want {
		err = fmt.Errorf("it is %s, not %s as the destination says", desc.Digest, want)
	}
	return err
}

func summary(res copying.Result) string {
	if res.Manifests.Copied == 0 {
		return "was there already"
	}
	return fmt.Sprintf("copied %d manifests and %d blobs (%s), %d mounted, %d were there",
		res.Manifests.Copied, res.Blobs.Copied, humanSize(res.Bytes),
		res.Blobs.Mounted, res.Blobs.Present+res.Manifests.Present)
}

// progress shows a copy: in bars on a terminal, in lines elsewhere, and not at
// all beside JSON.
type progress struct {
	w    io.Writer
	bars *mpb.Progress // nil if there is no terminal
	open map[digest.Digest]*mpb.Bar
}

func (f *clientFlags) progress(w io.Writer) *progress {
	p := &progress{w: w, open: map[digest.Digest]*mpb.Bar{}}
	if f.json {
		p.w = io.Discard
	}
	if p.bars = newBars(p.w, false, mpb.PopCompletedMode()); p.bars != nil {
		p.w = io.Discard // what is not sent is in the sum
	}
	return p
}

// tell shows a step.
func (p *progress) tell(e copying.Event) {
	d := e.Descriptor
	if e.State == copying.Sending {
		if p.bars != nil {
			p.bar(e).SetCurrent(e.Bytes)
		}
		return
	}
	if bar, ok := p.open[d.Digest]; ok {
		delete(p.open, d.Digest)
		bar.SetTotal(d.Size, true)
	}
	what := "blob"
	if e.Manifest {
		what = "manifest"
	}
	fmt.Fprintf(p.w, "%-7s  %-8s  %s  %s\n", e.State, what, d.Digest, humanSize(d.Size))
}

func (p *progress) bar(e copying.Event) *mpb.Bar {
	d := e.Descriptor
	bar, ok := p.open[d.Digest]
	if !ok {
		bar = p.bars.AddBar(max(d.Size, 1),
			mpb.PrependDecorators(decor.Name(d.Digest.Encoded()[:12]+" ")),
			mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1000(0), " % .1f")))
		p.open[d.Digest] = bar
	}
	return bar
}

// end takes the bars away that a failure left.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	for _, bar := range p.open {
		bar.Abort(true)
	}
	p.bars.Wait()
}
