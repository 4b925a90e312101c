package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/moby/api/types/registry"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/stack"
)

// composeFlags say which Compose files are meant.
type composeFlags struct {
	files, envFiles, profiles []string
	name, dir                 string

	read []string // files that were read
}

// addComposeFlags adds to cmd the flags that docker compose has for the same.
func addComposeFlags(cmd *cobra.Command) *composeFlags {
	f := &composeFlags{}
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "a Compose `FILE`, or - for standard input; several are merged (default: COMPOSE_FILE, or compose.yaml here or above)")
	cmd.Flags().StringVarP(&f.name, "name", "p", "", "the `STACK`'s name (default: that of the file, or of its directory)")
	cmd.Flags().StringVar(&f.dir, "project-directory", "", "the `DIRECTORY` that relative paths start from (default: that of the first Compose file)")
	cmd.Flags().StringArrayVar(&f.envFiles, "env-file", nil, "a `FILE` of variables for the Compose file (default: COMPOSE_ENV_FILES, or .env beside it)")
	cmd.Flags().StringArrayVar(&f.profiles, "profile", nil, "take the services of this `PROFILE`, too (default: COMPOSE_PROFILES)")
	_ = cmd.MarkFlagDirname("project-directory") // there is such a flag
	return f
}

// load reads the Compose files, and says on w what is to be known of them.
func (f *composeFlags) load(ctx context.Context, w io.Writer) (*stack.Loaded, error) {
	envFiles := f.envFiles
	if named := os.Getenv("COMPOSE_ENV_FILES"); len(envFiles) == 0 && named != "" {
		envFiles = strings.Split(named, ",")
	}
	l, err := stack.Load(ctx, stack.Options{
		Files: f.files, ProjectName: f.name, WorkingDir: f.dir, Env: os.Environ(), EnvFiles: envFiles, Profiles: f.profiles,
	})
	if err != nil {
		return nil, err
	}
	f.read = l.Files
	for _, warning := range l.Warnings {
		fmt.Fprintf(w, "warning: %s\n", printable(warning))
	}
	return l, nil
}

// from says where the stack comes from, for the history.
func (f *composeFlags) from() string {
	if len(f.read) == 0 {
		return "compose.yaml"
	}
	from := f.read[0]
	if len(f.read) > 1 {
		from = fmt.Sprintf("%s and %d more", from, len(f.read)-1)
	}
	return from
}

// imageCredentials are those that docker has for the registries of a stack's images.
func imageCredentials(ctx context.Context, s deploy.Stack) (map[string]registry.AuthConfig, error) {
	return credentialsOf(s, func(host string) (*registry.AuthConfig, error) { return dockerLogin(ctx, host) })
}
