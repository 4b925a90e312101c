package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/runner"
)

func newDiffCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [-f COMPOSE-FILE]... | diff STACK --from N [--to N]",
		Short: "Show how a Compose file differs from what runs, or two revisions from each other",
		Long: `Show how a Compose file differs from the revision of its stack that is in service, and
what 'berth-runner deploy' would do; or, with STACK, how two of its revisions differ: by
default, the one of --from from the one in service.`,
		Example: "  berth-runner diff\n  berth-runner diff -f shop.yaml --exit-code\n  berth-runner diff shop --from 3 --to 5",
		Args:    cobra.MaximumNArgs(1),
	}
	f, files := addClientFlags(cmd), addComposeFlags(cmd)
	d := &differ{cmd: cmd}
	cmd.Flags().IntVar(&d.from, "from", 0, "the revision `N` to start from (default: the one in service)")
	cmd.Flags().IntVar(&d.to, "to", 0, "the revision `N` to end with (default: the one in service)")
	exit := cmd.Flags().Bool("exit-code", false, "end with 1 if there is a difference")
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		revisions := cmd.Flags().Changed("from") || cmd.Flags().Changed("to")
		if revisions != (len(args) == 1) || revisions && len(files.files) > 0 {
			return cli.Usage(errors.New("want a Compose file, or a STACK with --from or --to"))
		}
		return f.with(func(c *runnerClient) (err error) {
			d.client = c
			var stack string
			var differs bool
			if revisions {
				stack = args[0]
				differs, err = d.revisions(cmd.Context(), stack)
			} else {
				stack, differs, err = d.desired(cmd.Context(), files)
			}
			if err != nil {
				return c.explain(cmd.Context(), err, stack)
			}
			if differs && *exit {
				return fmt.Errorf("%s: there is a difference", stack)
			}
			return nil
		})
	}
	return cmd
}

// differ prints differences.
type differ struct {
	cmd      *cobra.Command
	client   *runnerClient
	from, to int
}

// revisions compares two revisions of a stack.
func (d *differ) revisions(ctx context.Context, stack string) (differs bool, err error) {
	var found [2]deploy.Stack
	var names [2]string
	for i, n := range []int{d.from, d.to} {
		if found[i], err = d.client.Stack(ctx, stack, n); err != nil {
			return false, err
		}
		names[i] = fmt.Sprintf("revision %d", n)
		if n == 0 {
			names[i] = "in service"
		}
	}
	return d.print(names[0], found[0], names[1], found[1])
}

// desired compares Compose files with what runs, and shows what deploying them would
// do.
func (d *differ) desired(ctx context.Context, files *composeFlags) (stack string, differs bool, err error) {
	req, err := request(d.cmd, files, "")
	if err != nil {
		return "", false, err
	}
	stack = req.Stack.Name
	now, err := d.client.Stack(ctx, stack, 0)
	if err != nil && !errors.Is(err, runner.ErrNotFound) {
		return stack, false, err
	}
	differs, err = d.print("in service", now, files.from(), req.Stack)
	if err != nil {
		return stack, false, err
	}
	p, err := d.client.Plan(ctx, req)
	if err != nil {
		return stack, false, err
	}
	if !differs && !changes(p) {
		return stack, false, nil
	}
	_, err = fmt.Fprintf(d.cmd.OutOrStdout(), "\nTo deploy it would do this:\n%s", planText(p))
	return stack, true, err
}

// changes says whether a plan does anything.
func changes(p deploy.Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s deploy.Step) bool {
		switch s.Kind {
		case deploy.StepKeep, deploy.StepPull, deploy.StepGate, deploy.StepSwitch:
			return false
		default:
			return true
		}
	})
}

// print prints how two stacks differ, part by part.
func (d *differ) print(fromName string, from deploy.Stack, toName string, to deploy.Stack) (differs bool, err error) {
	pin(&from, &to)
	hideSecrets(&from, &to)
	before, err := parts(from)
	if err != nil {
		return false, err
	}
	after, err := parts(to)
	if err != nil {
		return false, err
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	w := d.cmd.OutOrStdout()
	for _, part := range slices.Sorted(maps.Keys(all)) {
		text := diff.Diff(part+", "+fromName, []byte(before[part]), part+", "+toName, []byte(after[part]))
		if len(text) == 0 {
			continue
		}
		differs = true
		if err := printDiff(w, string(text)); err != nil {
			return true, err
		}
	}
	return differs, nil
}

// hideSecrets has contents of secrets told apart and no more: even a part of a digest
// gives a short one away to who tries all.
func hideSecrets(a, b *deploy.Stack) {
	before := map[string]digest.Digest{}
	each := func(s *deploy.Stack, do func(key string, f *deploy.File)) {
		s.Services = slices.Clone(s.Services)
		for i := range s.Services {
			svc := &s.Services[i]
			svc.Files = slices.Clone(svc.Files)
			for j := range svc.Files {
				if f := &svc.Files[j]; f.Secret {
					do(svc.Name+" "+f.Name, f)
				}
			}
		}
	}
	each(a, func(key string, f *deploy.File) {
		before[key] = f.Content
		f.Content = "secret"
	})
	each(b, func(key string, f *deploy.File) {
		was, ok := before[key]
		same := !ok || was == f.Content
		if f.Content = "secret"; !same {
			f.Content = "secret, another one"
		}
	})
}

// pin leaves digests only to images that have one in both stacks: that of a Compose
// file is known when it has been deployed.
func pin(a, b *deploy.Stack) {
	a.Services, b.Services = slices.Clone(a.Services), slices.Clone(b.Services)
	for i := range a.Services {
		for j := range b.Services {
			x, y := &a.Services[i], &b.Services[j]
			if x.Name == y.Name && (x.Digest == "" || y.Digest == "") {
				x.Digest, y.Digest = "", ""
			}
		}
	}
}

// parts are the parts of a stack's Compose file by their names, as YAML: a service with
// what is known of it besides.
func parts(s deploy.Stack) (map[string]string, error) {
	var file map[string]any
	if err := yaml.Unmarshal([]byte(s.Source), &file); err != nil {
		return nil, fmt.Errorf("the Compose file of %s: %w", s.Name, err)
	}
	all := map[string]any{}
	services, _ := file["services"].(map[string]any)
	for _, service := range s.Services {
		part, _ := services[service.Name].(map[string]any)
		all["service "+service.Name] = servicePart(part, service)
	}
	for key, part := range file {
		if key != "services" && key != "name" {
			all[key] = part
		}
	}
	texts := map[string]string{}
	for name, part := range all {
		var b strings.Builder
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := cmp.Or(enc.Encode(part), enc.Close()); err != nil {
			return nil, err
		}
		texts[name] = b.String()
	}
	return texts, nil
}

// servicePart is a service of a Compose file with what it does not say: the image's
// digest, the contents of files, and the replicas that it was scaled to.
func servicePart(part map[string]any, s deploy.Service) map[string]any {
	part = maps.Clone(part)
	if part == nil {
		part = map[string]any{}
	}
	part["image"] = s.Image
	if s.Digest != "" {
		part["image"] = pinned(s.Image, s.Digest)
	}
	deployed, _ := part["deploy"].(map[string]any)
	deployed = maps.Clone(deployed)
	if deployed == nil {
		deployed = map[string]any{}
	}
	deployed["replicas"] = s.Replicas
	part["deploy"] = deployed
	contents := map[string]string{}
	for _, f := range s.Files {
		contents[f.Name] = short(f.Content)
	}
	if len(contents) > 0 {
		part["x-contents"] = contents
	}
	return part
}

// printDiff prints a unified diff, without its first line, and on a terminal in colours.
func printDiff(w io.Writer, text string) error {
	on := coloured(w)
	_, text, _ = strings.Cut(text, "\n") // diff OLD NEW
	for line := range strings.Lines(text) {
		line = printable(strings.TrimSuffix(line, "\n"))
		switch {
		case strings.HasPrefix(line, "+"):
			line = colour(on, green, line)
		case strings.HasPrefix(line, "-"):
			line = colour(on, red, line)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
