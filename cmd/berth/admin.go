package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
)

// adminFlags are the flags of all commands that administer a registry.
type adminFlags struct {
	registry  string
	plainHTTP bool
	username  string
	data      dataFlags
	json      bool
	cmd       *cobra.Command
}

// dataFlags say where the data of a server is, as those of serve do.
type dataFlags struct {
	config, data string
	cmd          *cobra.Command
}

// addAdminFlags adds the flags to cmd, and says what they do behind its Long.
func addAdminFlags(cmd *cobra.Command) *adminFlags {
	return addAdminFlagsWith(cmd, "if none runs, its data is changed directly")
}

// addServerFlags is addAdminFlags for what only a server that runs does.
func addServerFlags(cmd *cobra.Command) *adminFlags {
	return addAdminFlagsWith(cmd, "one must run, as this asks it")
}

func addAdminFlagsWith(cmd *cobra.Command, ifNone string) *adminFlags {
	f := &adminFlags{cmd: cmd, data: dataFlags{cmd: cmd}}
	cmd.Flags().StringVar(&f.registry, "registry", os.Getenv("BERTH_REGISTRY"), "administer the registry at `HOST[:PORT]`; also set by BERTH_REGISTRY")
	cmd.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "talk HTTP without TLS; the default for localhost")
	cmd.Flags().StringVar(&f.username, "username", "", "sign in at the registry as this `ACCOUNT`, whose password is asked for")
	f.data.add()
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, in a shape that stays")
	cmd.Long += `

Without --registry it is the server of this machine whose data is in --data, or
where --config says; ` + ifNone + `. Run it as the
user that runs the server. With --registry, it is done over the network, with the
credentials of 'docker login', or with --username.`
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return f
}

func (f *dataFlags) add() {
	f.cmd.Flags().StringVar(&f.config, "config", "", "read the server's configuration from this YAML `FILE`")
	f.cmd.Flags().StringVar(&f.data, "data", config.Default().Storage.Data, "the `DIR`ectory of the server's data")
}

// load reads the configuration as serve would.
func (f *dataFlags) load() (config.Config, error) {
	var set []config.Setting
	if f.cmd.Flags().Changed("data") {
		set = append(set, config.Setting{Key: "storage.data", Value: f.data, Source: "flag --data"})
	}
	return config.Load(f.config, os.Environ(), set...)
}

// administration is a server that can be administered.
type administration struct {
	*admin.Client
	host     string // where clients of the registry find it
	local    bool   // without signing in
	password string // that the client signs in with, or empty
	close    func() error
}

// open finds the server. If there is none, its data is opened; made, if make says
// so. The caller closes it.
func (f *adminFlags) open(ctx context.Context, create bool) (*administration, error) {
	flags := f.cmd.Flags()
	remote, local := flags.Changed("registry"), flags.Changed("data") || flags.Changed("config")
	switch {
	case remote && local:
		return nil, cli.Usage(errors.New("want either --registry, or --data and --config"))
	case f.registry != "" && !local:
		return f.openRemote(ctx)
	case f.username != "" || f.plainHTTP:
		return nil, cli.Usage(errors.New("--username and --plain-http are for --registry"))
	}
	cfg, err := f.data.load()
	if err != nil {
		return nil, err
	}
	return openLocal(ctx, cfg, create, f.cmd.ErrOrStderr())
}

// openRemote opens the server at --registry.
func (f *adminFlags) openRemote(ctx context.Context) (*administration, error) {
	host, scheme := strings.TrimSuffix(f.registry, "/"), "https"
	if f.plainHTTP || isLoopback(host) && !f.cmd.Flags().Changed("plain-http") {
		scheme = "http"
	}
	if host == "" || strings.ContainsAny(host, "/ @?#") {
		return nil, cli.Usage(fmt.Errorf("%q is no registry: want HOST[:PORT]", f.registry))
	}
	d := &basicDoer{user: f.username}
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if f.username != "" {
		password, err := askPassword(f.cmd, "Password of "+f.username+" at "+host+": ", false)
		if err != nil {
			return nil, err
		}
		d.password = password
	} else if err := d.ofDocker(ctx, host); err != nil {
		return nil, err
	}
	return &administration{
		Client: admin.NewClient(d, scheme+"://"+host), host: host, password: d.password,
		close: func() error { d.client.CloseIdleConnections(); return nil },
	}, nil
}

// basicDoer sends requests with a password.
type basicDoer struct {
	client         http.Client
	user, password string
}

// ofDocker takes the credentials that docker has for the host, if any.
func (d *basicDoer) ofDocker(ctx context.Context, host string) error {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return fmt.Errorf("read docker's configuration: %w", err)
	}
	c, err := store.Get(ctx, host)
	if err != nil {
		return fmt.Errorf("read docker's credentials for %s: %w", host, err)
	}
	if c.Password == "" && c.RefreshToken != "" {
		return fmt.Errorf("docker keeps a token for %s, which is for the registry's content alone: name an account with --username", host)
	}
	d.user, d.password = c.Username, c.Password
	return nil
}

// Do implements admin.Doer.
func (d *basicDoer) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", "berth/"+version)
	if d.user != "" || d.password != "" {
		r.SetBasicAuth(d.user, d.password)
	}
	return d.client.Do(r) //nolint:gosec // the user has named the host
}

// explain says what to do about an error. what is what could not be done.
func (a *administration) explain(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case a.local:
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op
		}
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, registry.ErrUnauthorized):
		return fmt.Errorf("%s: %w (log in with 'docker login %s', or name an account with --username)", what, err, a.host)
	case errors.Is(err, registry.ErrRouteUnknown):
		return fmt.Errorf("%s: %s takes no administration over the network: it has no policy, or is no berth of this version (run this on its own machine)", what, a.host)
	case errors.Is(err, registry.ErrDenied):
		return fmt.Errorf("%s: %w", what, err) // it says what is missing
	default:
		return explain(err, a.host, what)
	}
}

// with opens the server, and has do use it.
func (f *adminFlags) with(ctx context.Context, create bool, do func(*administration) error) (err error) {
	a, err := f.open(ctx, create)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	return do(a)
}

// each does something to each of names, as far as it can, and says what happened.
func (f *adminFlags) each(w io.Writer, names []string, action, said string, do func(name string) error) error {
	type result struct {
		Name   string `json:"name"`
		Action string `json:"action"`
		Error  string `json:"error,omitempty"`
	}
	var all struct {
		Results []result `json:"results"`
	}
	var errs []error
	for _, name := range names {
		r := result{Name: name, Action: action}
		err := do(name)
		if err != nil {
			r.Action, r.Error = "failed", err.Error()
			errs = append(errs, err)
		} else if !f.json {
			_, err = fmt.Fprintf(w, said+"\n", name)
			errs = append(errs, err)
		}
		all.Results = append(all.Results, r)
	}
	if f.json {
		errs = append(errs, printJSON(w, all))
	}
	return errors.Join(errs...)
}

// completeWith completes what list lists, up to most arguments; 0 is any number.
func (f *adminFlags) completeWith(most int, list func(context.Context, *administration) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		var found []string
		err := f.with(ctx, false, func(a *administration) error {
			all, err := list(ctx, a)
			for _, s := range all {
				if strings.HasPrefix(s, typed) && len(found) < maxCandidates {
					found = append(found, s)
				}
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// ago writes a time for a table.
func ago(t *time.Time, never string) string {
	if t == nil || t.IsZero() {
		return never
	}
	return t.Local().Format("2006-01-02 15:04")
}

// dash stands for what is empty in a table.
func dash(s string) string { return cmp.Or(printable(s), "-") }
