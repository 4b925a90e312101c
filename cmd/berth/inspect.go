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
	"text/tabwriter"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
)

// inspection is what 'berth inspect --json' prints.
type inspection struct {
	Reference    string            `json:"reference"`
	Digest       string            `json:"digest"`
	MediaType    string            `json:"mediaType"`
	Size         int64             `json:"size"`                // of the manifest itself, bytes
	Total        int64             `json:"totalSize,omitempty"` // of config and layers, bytes
	ArtifactType string            `json:"artifactType,omitempty"`
	Created      *time.Time        `json:"created,omitempty"`
	Platforms    []platform        `json:"platforms,omitempty"`
	Config       *content          `json:"config,omitempty"`
	Layers       []content         `json:"layers,omitempty"`
	Subject      string            `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Referrers    int               `json:"referrers"`
}

// platform is what an image, or a manifest of an index, runs on.
type platform struct {
	Platform  string `json:"platform"` // OS/ARCH[/VARIANT], or "unknown/unknown"
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
}

type content struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
}

func newInspectCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]",
		Short: "Show what an image or artifact consists of",
		Long: `Show what an image or artifact consists of: digest, media type, sizes, platforms,
config, layers, annotations, and how many others refer to it. The tag is
"latest" if none is given.

With --raw, the manifest's bytes are printed as they are.

With --json: {"reference", "digest", "mediaType", "size", "totalSize",
"artifactType", "created", "platforms": [{"platform", "digest", "mediaType",
"size"}], "config": {"digest", "mediaType", "size"}, "layers": [as config],
"subject", "annotations": {}, "referrers": NUMBER}; what there is none of is left
out, sizes are in bytes.`,
		Example: "  berth inspect mongo\n  berth inspect mongo:7 --json\n  berth inspect mongo@sha256:0123... --raw",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	raw := cmd.Flags().Bool("raw", false, "print the bytes of the manifest")
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *raw && f.json {
			return cli.Usage(errors.New("--raw and --json: want one of them"))
		}
		n, err := f.parse(args[0])
		if err != nil {
			return err
		}
		c, err := f.open(n.Host)
		if err != nil {
			return err
		}
		what := "cannot inspect " + n.String()
		data, desc, err := c.Manifest(cmd.Context(), n.Repo, n.ref())
		if err != nil {
			return explain(err, n.Host, what)
		}
		w := cmd.OutOrStdout()
		if *raw {
			_, err := w.Write(data)
			return err
		}
		in, err := inspect(cmd.Context(), c, n, data, desc)
		if err != nil {
			return explain(err, n.Host, what)
		}
		if f.json {
			return printJSON(w, in)
		}
		return in.print(w)
	}
	return cmd
}

// inspect looks into a manifest and asks the registry for the rest.
func inspect(ctx context.Context, c *remote.Client, n name, data []byte, desc registry.Descriptor) (inspection, error) {
	in := inspection{
		Reference: n.String(), Digest: string(desc.Digest), MediaType: desc.MediaType, Size: desc.Size,
	}
	var doc struct {
		ArtifactType string                `json:"artifactType"`
		Config       *registry.Descriptor  `json:"config"`
		Layers       []registry.Descriptor `json:"layers"`
		Manifests    []registry.Descriptor `json:"manifests"`
		Subject      *registry.Descriptor  `json:"subject"`
		Annotations  map[string]string     `json:"annotations"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return in, registry.ErrManifestInvalid.With("the manifest is not valid: %v", err)
	}
	in.ArtifactType, in.Annotations = doc.ArtifactType, doc.Annotations
	if doc.Subject != nil {
		in.Subject = string(doc.Subject.Digest)
	}
	for _, m := range doc.Manifests {
		in.Platforms = append(in.Platforms, platform{platformName(m.Platform), string(m.Digest), m.MediaType, m.Size})
	}
	for _, l := range doc.Layers {
		in.Layers = append(in.Layers, content{string(l.Digest), l.MediaType, l.Size})
		in.Total += l.Size
	}
	if doc.Config != nil {
		in.Config = &content{string(doc.Config.Digest), doc.Config.MediaType, doc.Config.Size}
		in.Total += doc.Config.Size
		if err := in.readConfig(ctx, c, n.Repo, *doc.Config); err != nil {
			return in, err
		}
	}
	for _, err := range c.Referrers(ctx, n.Repo, desc.Digest, "", "") {
		if err != nil {
			return in, err
		}
		in.Referrers++
	}
	return in, nil
}

// readConfig reads what the config of an image says of it.
func (in *inspection) readConfig(ctx context.Context, c *remote.Client, repo string, config registry.Descriptor) error {
	switch config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return nil
	}
	if _, err := registry.ParseDigest(string(config.Digest)); err != nil {
		return err
	}
	r, _, err := c.Blob(ctx, repo, config.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, registry.MaxManifest))
	if err != nil {
		return err
	}
	var image ocispec.Image
	if json.Unmarshal(data, &image) != nil {
		return nil // an image may have any config
	}
	if image.Created != nil && !image.Created.IsZero() { // as reproducible builds have it
		in.Created = image.Created
	}
	if image.OS != "" {
		in.Platforms = []platform{{platformName(&image.Platform), in.Digest, in.MediaType, in.Size}}
	}
	return nil
}

func platformName(p *ocispec.Platform) string {
	if p == nil {
		return "unknown/unknown"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// print writes the inspection for a reader.
func (in *inspection) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	field("Reference", "%s", in.Reference)
	field("Digest", "%s", in.Digest)
	field("Media type", "%s", in.MediaType)
	if in.ArtifactType != "" {
		field("Artifact type", "%s", in.ArtifactType)
	}
	field("Manifest", "%s", humanSize(in.Size))
	if in.Total > 0 {
		field("Content", "%s", humanSize(in.Total))
	}
	if in.Created != nil {
		field("Created", "%s", in.Created.UTC().Format(time.RFC3339))
	}
	if in.Subject != "" {
		field("Refers to", "%s", in.Subject)
	}
	field("Referrers", "%d", in.Referrers)
	if err := w.Flush(); err != nil { // the columns below are others
		return err
	}
	row := func(cells ...string) {
		for i, c := range cells {
			cells[i] = printable(c)
		}
		fmt.Fprintf(w, "  %s\n", strings.Join(cells, "\t"))
	}
	if len(in.Platforms) > 0 {
		fmt.Fprintln(w, "Platforms:")
		for _, p := range in.Platforms {
			row(p.Platform, p.Digest, humanSize(p.Size))
		}
	}
	if in.Config != nil {
		fmt.Fprintln(w, "Config:")
		row(in.Config.Digest, humanSize(in.Config.Size), in.Config.MediaType)
	}
	if len(in.Layers) > 0 {
		fmt.Fprintln(w, "Layers:")
		for _, l := range in.Layers {
			row(l.Digest, humanSize(l.Size), l.MediaType)
		}
	}
	if len(in.Annotations) > 0 {
		fmt.Fprintln(w, "Annotations:")
		for _, k := range slices.Sorted(maps.Keys(in.Annotations)) {
			row(k, in.Annotations[k])
		}
	}
	return w.Flush()
}
