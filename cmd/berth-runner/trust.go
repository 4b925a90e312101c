package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
	"github.com/berth-registry/berth/runner/trust"
)

// trustRules are the rules of a configuration.
func trustRules(cfg runnerconfig.Config) []trust.Rule {
	var rules []trust.Rule
	for _, r := range cfg.Trust {
		rules = append(rules, trust.Rule(r))
	}
	return rules
}

func newTrustCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Try the policy of which images may run",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTrustCheckCmd())
	return cmd
}

func newTrustCheckCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check IMAGE",
		Short: "Say by which rule of the configuration an image may run, or why not",
		Long: `Say by which rule of the configuration an image of a registry may run here, or why
not. The registry is asked, with the credentials that docker has for it; no runner need
be there, and what it has of the image does not matter. The exit code is 0 if the image
may run.`,
		Example: "  berth-runner trust check --config /etc/berth/runner.yaml registry.example.com/prod/app:v2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := runnerconfig.Load(file, os.Environ())
			if err != nil {
				return err
			}
			return checkTrust(cmd.Context(), cfg, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "read the configuration from this YAML `FILE`")
	return cmd
}

// checkTrust asks the policy of a configuration about an image of a registry.
func checkTrust(ctx context.Context, cfg runnerconfig.Config, image string, w io.Writer) error {
	policy, err := trust.Open(ctx, trust.Options{}, trustRules(cfg))
	if err != nil {
		return err
	}
	defer policy.Close()
	o := engineOptions(cfg, nil)
	client, err := remote.New(remote.Options{
		DefaultRegistry: o.DefaultRegistry, Hosts: o.Registries, CertsDir: o.CertsDir, UserAgent: "berth-runner/" + version,
	})
	if err != nil {
		return err
	}
	named, err := client.ParseName(image)
	if err != nil {
		return err
	}
	named = reference.TagNameOnly(named)
	login, err := dockerLogin(ctx, reference.Domain(named))
	if err != nil {
		return err
	}
	repo := client.Repository(named, login)
	origins, err := originsAt(ctx, repo, named)
	if err != nil {
		return err
	}
	decision, err := policy.Decide(ctx, trust.Image{Name: image, Provenance: runner.Provenance{Origins: origins}}, func(reference.Named) trust.Source { return repo })
	if err != nil {
		return err
	}
	if decision.Rule == 0 {
		_, err = fmt.Fprintf(w, "%s may run: %s\n", image, decision.Why)
		return err
	}
	_, err = fmt.Fprintf(w, "%s (%s) may run by rule %d: %s\n", image, origins[0].Root, decision.Rule, decision.Why)
	return err
}

// originsAt are what a pull of a name would record: of an index, for the manifest that
// is the best for this host.
func originsAt(ctx context.Context, repo *remote.Repo, named reference.Named) ([]runner.Origin, error) {
	desc, err := repo.Resolve(ctx, "")
	if err != nil {
		return nil, err
	}
	origin := runner.Origin{Repository: named.Name(), Root: desc.Digest, Manifest: desc.Digest}
	body, err := repo.Fetch(ctx, "", desc, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("what the registry sends is not %s", desc.Digest)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if index.Manifests == nil {
		return []runner.Origin{origin}, nil
	}
	match := platforms.Default()
	fit := slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Platform == nil || !match.Match(*d.Platform) })
	if len(fit) == 0 {
		return nil, errors.New("the image has no manifest for this host: " + platforms.DefaultString())
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case match.Less(*a.Platform, *b.Platform):
			return -1
		case match.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	origin.Manifest = fit[0].Digest
	return []runner.Origin{origin}, nil
}
