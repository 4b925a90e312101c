package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

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

// imageCredentials are those that docker has for the registries of a stack's images, by
// their hosts.
func imageCredentials(ctx context.Context, s deploy.Stack) (map[string]registry.AuthConfig, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read docker's configuration: %w", err)
	}
	found := map[string]registry.AuthConfig{}
	for _, service := range s.Services {
		named, err := reference.ParseNormalizedNamed(service.Image)
		if err != nil {
			continue // the runner says what is wrong with it
		}
		host := reference.Domain(named)
		if _, ok := found[host]; ok {
			continue
		}
		address := credentials.ServerAddressFromRegistry(host)
		c, err := store.Get(ctx, address)
		if err != nil {
			return nil, fmt.Errorf("docker's credentials for %s: %w", host, err)
		}
		if c != auth.EmptyCredential {
			found[host] = registry.AuthConfig{
				Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, RegistryToken: c.AccessToken, ServerAddress: address,
			}
		}
	}
	return found, nil
}
