package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy/api"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
)

// newStackCmds makes the commands about stacks.
func newStackCmds() []*cobra.Command {
	cmds := []*cobra.Command{
		newDeployCmd(), newDiffCmd(), newStatusCmd(), newHistoryCmd(), newLogsCmd(),
		newRollbackCmd(), newScaleCmd(), newCancelCmd(), newRmCmd(), newPublishCmd(),
	}
	for _, cmd := range cmds {
		errorsAsJSON(cmd)
	}
	return cmds
}

// errorsAsJSON has a command that has --json print its error so, too: whoever reads JSON
// gets JSON.
func errorsAsJSON(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if asked, e := cmd.Flags().GetBool("json"); err == nil || e != nil || !asked {
			return err
		}
		if _, said := errors.AsType[saidError](err); said {
			return err
		}
		return cmp.Or(json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"error": map[string]any{"message": err.Error()}}), err)
	}
}

// saidError is one after whose JSON there is nothing more to say.
type saidError struct{ error }

func (e saidError) Unwrap() error { return e.error }

// completionTime is how long a shell waits for completions.
const completionTime = 3 * time.Second

// clientFlags are the flags of all commands that talk to a runner.
type clientFlags struct {
	host string
	json bool
}

// addClientFlags adds --host to cmd, and says what it does behind its Long.
func addClientFlags(cmd *cobra.Command) *clientFlags {
	f := &clientFlags{}
	host := cmp.Or(os.Getenv(client.EnvOverrideHost), "unix://"+runnerconfig.Default().Socket.Path)
	cmd.Flags().StringVarP(&f.host, "host", "H", host, "the runner `HOST`, unix://PATH or tcp://HOST:PORT; also set by DOCKER_HOST")
	cmd.Long += `

It talks to the runner as the docker command does: --host or DOCKER_HOST say where, and
DOCKER_CERT_PATH and DOCKER_TLS_VERIFY with which certificates.`
	return f
}

// addJSON adds --json to cmd.
func (f *clientFlags) addJSON(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&f.json, "json", false, what)
}

// runnerClient talks to a runner: about stacks, and about all that docker does.
type runnerClient struct {
	*api.Client

	docker *client.Client
	host   string
}

// open makes a client. It does not connect.
func (f *clientFlags) open() (*runnerClient, error) {
	scheme, _, _ := strings.Cut(f.host, "://")
	if scheme != "unix" && scheme != "tcp" {
		return nil, cli.Usage(fmt.Errorf("--host or DOCKER_HOST: %q: want unix://PATH or tcp://HOST:PORT", f.host))
	}
	docker, err := client.New(client.WithTLSClientConfigFromEnv(), client.WithHost(f.host))
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("--host or DOCKER_HOST: %w", err))
	}
	return &runnerClient{Client: api.NewClient(docker.Dialer()), docker: docker, host: f.host}, nil
}

// with runs do with a client.
func (f *clientFlags) with(do func(*runnerClient) error) error {
	c, err := f.open()
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// Close lets go of connections.
func (c *runnerClient) Close() {
	c.Client.Close()
	_ = c.docker.Close() // it only lets go of connections, too
}

// explain says what to do about an error of the runner that has to do with a stack,
// or with none.
func (c *runnerClient) explain(ctx context.Context, err error, stack string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no berth-runner answers at %s: is it running? Start it with 'berth-runner serve', or name another with --host", c.host)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not use %s: run the command as root, or join the socket's group and log in again (usermod --append --groups berth USER)", c.host)
	case errors.Is(err, api.ErrOther):
		return fmt.Errorf("%w: %s; name a berth-runner's with --host, such as --host unix://%s", api.ErrOther, c.host, runnerconfig.Default().Socket.Path)
	case errors.Is(err, runner.ErrNotFound) && stack != "":
		return c.explainNotFound(ctx, err, stack)
	}
	return err
}

// explainNotFound says which stacks there are, if the one that was asked for is not
// among them.
func (c *runnerClient) explainNotFound(ctx context.Context, err error, stack string) error {
	names, e := c.names(ctx)
	switch {
	case e != nil || slices.Contains(names, stack):
		return err
	case len(names) == 0:
		return fmt.Errorf("there is no stack %q, and no other: deploy one with 'berth-runner deploy -f compose.yaml'", stack)
	}
	return fmt.Errorf("there is no stack %q: there is %s", stack, strings.Join(names, ", "))
}

func (c *runnerClient) names(ctx context.Context) ([]string, error) {
	all, err := c.Stacks(ctx)
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return names, err
}

// completeStack completes the first argument by the stacks that there are, and those
// behind by services of it if there is something to put behind them.
func (f *clientFlags) completeStack(services bool, suffix string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		directive := cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 && !services {
			return nil, directive
		}
		var found []string
		err := f.with(func(c *runnerClient) (err error) {
			if len(args) == 0 {
				found, err = c.names(ctx)
				return err
			}
			s, err := c.Status(ctx, args[0])
			for _, service := range s.Services {
				found = append(found, service.Name+suffix)
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		if len(args) > 0 && suffix != "" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return found, directive
	}
}
