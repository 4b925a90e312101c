package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/moby/moby/api/types/registry"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/stack"
)

// composeFlags say which Compose files are meant.
type composeFlags struct {
	files, envFiles, profiles []string
	name                      string
}

// addComposeFlags adds to cmd the flags that docker compose has for the same.
func addComposeFlags(cmd *cobra.Command) *composeFlags {
	f := &composeFlags{}
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "a Compose `FILE`; several are merged (default: compose.yaml here or above)")
	cmd.Flags().StringVarP(&f.name, "name", "p", "", "the `STACK`'s name (default: that of the file, or of its directory)")
	cmd.Flags().StringArrayVar(&f.envFiles, "env-file", nil, "a `FILE` of variables for the Compose file (default: .env beside it)")
	cmd.Flags().StringArrayVar(&f.profiles, "profile", nil, "take the services of this `PROFILE`, too")
	return f
}

// load reads the Compose files, and says on w what is to be known of them.
func (f *composeFlags) load(ctx context.Context, w io.Writer) (*stack.Loaded, error) {
	l, err := stack.Load(ctx, stack.Options{
		Files: f.files, ProjectName: f.name, Env: os.Environ(), EnvFiles: f.envFiles, Profiles: f.profiles,
	})
	if err != nil {
		return nil, err
	}
	for _, warning := range l.Warnings {
		fmt.Fprintf(w, "warning: %s\n", printable(warning))
	}
	return l, nil
}

// from says where the stack comes from, for the history.
func (f *composeFlags) from() string {
	if len(f.files) == 0 {
		return "compose.yaml"
	}
	from := f.files[0]
	if len(f.files) > 1 {
		from = fmt.Sprintf("%s and %d more", from, len(f.files)-1)
	}
	return from
}

// imageCredentials are those that docker has for the registries of a stack's images.
func imageCredentials(ctx context.Context, s deploy.Stack) (map[string]registry.AuthConfig, error) {
	return credentialsOf(s, func(host string) (*registry.AuthConfig, error) { return dockerLogin(ctx, host) })
}
