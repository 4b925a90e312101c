package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/runner"
)

func newDeployCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deploy [-f COMPOSE-FILE]...",
		Short: "Put a stack, a Compose file, into service without downtime",
		Long: `Put a stack into service: all that a Compose file has. New containers are started
beside those that serve; when their health checks hold they get the traffic, at once for
the whole stack, and the old ones are stopped and kept, for 'berth-runner rollback'. If
they do not hold, before the traffic is moved or for a while after, all goes back by
itself: the reason and the last lines of the container's log are shown, and the exit
code is 1.

What is in service already, and as it should be, is left as it is: then nothing is
deployed, and there is no new revision.

The runner does it, not this command: it goes on if the command is interrupted.
'berth-runner status STACK --wait' watches it, 'berth-runner cancel STACK' takes it
back. Images of registries that need it are pulled with the credentials of 'docker
login'.

With --json: a line {"event": {...}} for each event, and at the end {"result": REVISION}
or {"error": {"message", "failure"}}; with --dry-run the plan. A REVISION that was in
service already has "Unchanged": true.`,
		Example: "  berth-runner deploy\n  berth-runner deploy -f compose.yaml -f production.yaml --dry-run\n" +
			"  berth-runner deploy -f shop.yaml --pull always",
		Args: cobra.NoArgs,
	}
	f, files := addClientFlags(cmd), addComposeFlags(cmd)
	f.addJSON(cmd, "print JSON, in lines")
	dry := cmd.Flags().Bool("dry-run", false, "print what would be done, and do nothing")
	detach := cmd.Flags().BoolP("detach", "d", false, "do not wait for it")
	pull := cmd.Flags().String("pull", "", "pull images `WHEN`: always, missing, or never (default: what the Compose file says, or missing)")
	_ = cmd.RegisterFlagCompletionFunc("pull", cobra.FixedCompletions([]string{"always", "missing", "never"}, cobra.ShellCompDirectiveNoFileComp)) // there is such a flag
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req, err := request(cmd, files, deploy.PullPolicy(*pull))
		if err != nil {
			return err
		}
		return f.with(func(c *runnerClient) error {
			if *dry {
				return f.plan(cmd, c, req)
			}
			var services []string
			for _, s := range req.Stack.Services {
				services = append(services, s.Name)
			}
			d := &deployment{cmd: cmd, client: c, stack: req.Stack.Name, verb: "deployed", services: services, json: f.json, detach: *detach}
			return d.run(func(ctx context.Context, watch func(deploy.Event)) (deploy.Revision, error) {
				return c.Deploy(ctx, req, watch)
			})
		})
	}
	return cmd
}

// request makes what the runner is asked for of the Compose files.
func request(cmd *cobra.Command, files *composeFlags, pull deploy.PullPolicy) (deploy.Request, error) {
	switch pull {
	case "", deploy.PullAlways, deploy.PullMissing, deploy.PullNever:
	default:
		return deploy.Request{}, cli.Usage(fmt.Errorf("--pull: %q: want always, missing or never", pull))
	}
	l, err := files.load(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return deploy.Request{}, err
	}
	for i := range l.Stack.Services {
		if pull != "" {
			l.Stack.Services[i].Pull = pull
		}
	}
	auth, err := imageCredentials(cmd.Context(), l.Stack)
	if err != nil {
		return deploy.Request{}, err
	}
	return deploy.Request{Stack: l.Stack, Contents: l.Contents, By: caller(), From: files.from(), Auth: auth}, nil
}

// plan prints what would be done.
func (f *clientFlags) plan(cmd *cobra.Command, c *runnerClient, req deploy.Request) error {
	p, err := c.Plan(cmd.Context(), req)
	if err != nil {
		return c.explain(cmd.Context(), err, "")
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), p)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), planText(p))
	return err
}

func planText(p deploy.Plan) string {
	lines := strings.Split(strings.TrimSuffix(p.String(), "\n"), "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	if len(p.Steps) == 0 {
		lines = []string{"nothing: it is in service as it is"}
	}
	return fmt.Sprintf("%s, revision %d:\n%s\n", printable(p.Stack), p.Revision, strings.Join(lines, "\n"))
}

// deployment is something that the runner does with a stack, and this command watches.
type deployment struct {
	cmd      *cobra.Command
	client   *runnerClient
	stack    string
	verb     string   // what the stack then is
	services []string // that are known before
	json     bool
	detach   bool
}

// run has the runner do something, shows how it goes, and tells how it ended. An
// interrupt, or --detach, ends no more than the watching.
func (d *deployment) run(do func(context.Context, func(deploy.Event)) (deploy.Revision, error)) error {
	ctx, stop := signal.NotifyContext(d.cmd.Context(), os.Interrupt)
	defer stop()
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	show := d.show()
	r, err := do(ctx, func(e deploy.Event) {
		show.event(e)
		if d.detach {
			leave()
		}
	})
	show.end(err == nil)
	left := ctx.Err() != nil
	stop() // another interrupt ends the command
	if d.json {
		return d.printLast(r, left, err)
	}
	if err != nil {
		return d.explain(left, err)
	}
	if r.Unchanged {
		_, err = fmt.Fprintf(d.cmd.OutOrStdout(), "%s: nothing has changed: revision %d is in service\n", d.stack, r.Number)
		return err
	}
	said := fmt.Sprintf("%s is %s", d.stack, d.verb)
	if r.Rollback != 0 {
		said += fmt.Sprintf(" to revision %d", r.Rollback)
	}
	if r.Number != 0 { // or else it is removed
		said += fmt.Sprintf(": revision %d", r.Number)
	}
	_, err = fmt.Fprintln(d.cmd.OutOrStdout(), said)
	return err
}

// show chooses how events are shown.
func (d *deployment) show() display {
	w := d.cmd.ErrOrStderr()
	switch {
	case d.json:
		return jsonDisplay{json.NewEncoder(d.cmd.OutOrStdout())}
	case isTerminal(w) && !d.detach:
		return newLiveDisplay(w, d.services)
	}
	return newLineDisplay(w)
}

// errNotTaken is the error of a command whose output has said all already.
var errNotTaken = errors.New("the version was not taken")

// printLast prints the last line of JSON.
func (d *deployment) printLast(r deploy.Revision, left bool, err error) error {
	enc := json.NewEncoder(d.cmd.OutOrStdout())
	if err == nil {
		return enc.Encode(map[string]any{"result": r})
	}
	if left {
		if err := d.explain(left, err); err != nil {
			return saidError{err} // there is no last line of what goes on
		}
		return nil
	}
	said := map[string]any{"message": err.Error()}
	f, failed := errors.AsType[*deploy.Failure](err)
	if failed {
		said["failure"] = f
	}
	if err := enc.Encode(map[string]any{"error": said}); err != nil {
		return err
	}
	if failed {
		return saidError{fmt.Errorf("%s: %w", d.stack, errNotTaken)}
	}
	return saidError{d.explain(left, err)}
}

// explain says what an error means for the stack. If left, it was only the watching
// that ended.
func (d *deployment) explain(left bool, err error) error {
	ctx := d.cmd.Context()
	if f, ok := errors.AsType[*deploy.Failure](err); ok {
		return d.explainFailure(ctx, f)
	}
	follow := fmt.Sprintf("'berth-runner status %s --wait' watches it, 'berth-runner cancel %s' takes it back", d.stack, d.stack)
	switch {
	case left && d.detach:
		fmt.Fprintf(d.cmd.ErrOrStderr(), "%s: the runner goes on with it: %s\n", d.stack, follow)
		return nil
	case left:
		return fmt.Errorf("%s: interrupted here, and the runner goes on with it: %s", d.stack, follow)
	case errors.Is(err, runner.ErrUnavailable):
		return fmt.Errorf("%s: %w: it goes on, or goes back, when the runner runs again: %s", d.stack, err, follow)
	case errors.Is(err, runner.ErrConflict):
		if s, e := d.client.Status(ctx, d.stack); e == nil && s.Deploying != 0 {
			err = fmt.Errorf("%w: %s", err, follow)
		}
		return fmt.Errorf("%s: %w", d.stack, err)
	}
	return d.client.explain(ctx, err, d.stack)
}

// explainFailure shows the last lines of the log, and says what serves now.
func (d *deployment) explainFailure(ctx context.Context, f *deploy.Failure) error {
	w := d.cmd.ErrOrStderr()
	if len(f.Log) > 0 {
		fmt.Fprintf(w, "the last lines of %s:\n", printable(f.Container))
		for _, line := range f.Log {
			fmt.Fprintf(w, "  | %s\n", printable(line))
		}
	}
	text := f.Reason
	if f.Container != "" {
		text = f.Container + ": " + text
	}
	if f.Service != "" {
		text = fmt.Sprintf("service %s: %s", f.Service, text)
	}
	err := fmt.Errorf("%s: revision %d was not taken: %s", d.stack, f.Revision.Number, printable(text))
	return fmt.Errorf("%w\n%s", err, d.whatServes(ctx, f))
}

// whatServes says what users of a stack get after a failure.
func (d *deployment) whatServes(ctx context.Context, f *deploy.Failure) string {
	if f.Revision.Outcome == deploy.Paused {
		return fmt.Sprintf("it was left as it was then, as its failure_action says: 'berth-runner status %s' shows how, 'berth-runner rollback %s' goes back", d.stack, d.stack)
	}
	s, err := d.client.Status(ctx, d.stack)
	if err != nil || s.Revision == 0 {
		return "there is no revision before that it could go back to"
	}
	return fmt.Sprintf("revision %d serves on: all is as it was before", s.Revision)
}
