package runner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// engine is the API's own client with what the tests ask for most.
type engine struct{ *client.Client }

// spec is a container that is asked for.
type spec struct {
	name   string
	image  string
	cmd    []string
	change func(*container.Config, *container.HostConfig) // nil for none
}

func (e engine) create(ctx context.Context, s spec) (id string, err error) {
	c, hc := &container.Config{Image: s.image, Cmd: s.cmd}, &container.HostConfig{}
	if s.change != nil {
		s.change(c, hc)
	}
	res, err := e.ContainerCreate(ctx, client.ContainerCreateOptions{Name: s.name, Config: c, HostConfig: hc})
	return res.ID, wrap(err, "create %s", s.name)
}

func (e engine) start(ctx context.Context, id string) error {
	_, err := e.ContainerStart(ctx, id, client.ContainerStartOptions{})
	return wrap(err, "start %s", id)
}

// run creates a container and starts it.
func (e engine) run(ctx context.Context, s spec) (id string, err error) {
	if id, err = e.create(ctx, s); err == nil {
		err = e.start(ctx, id)
	}
	return id, err
}

// stop gives the container no time.
func (e engine) stop(ctx context.Context, id string) error {
	none := 0
	_, err := e.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &none})
	return wrap(err, "stop %s", id)
}

// remove removes a container with its volumes, running or not.
func (e engine) remove(ctx context.Context, id string) error {
	_, err := e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return wrap(err, "remove %s", id)
}

func (e engine) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	res, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	return res.Container, wrap(err, "inspect %s", id)
}

// wait returns the exit code of a container that ends, or has ended.
func (e engine) wait(ctx context.Context, id string) (int64, error) {
	w := e.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case res := <-w.Result:
		return res.StatusCode, nil
	case err := <-w.Error:
		return 0, wrap(err, "wait for %s", id)
	}
}

// exec runs a command in a container and returns what it wrote and its exit
// code.
func (e engine) exec(ctx context.Context, id string, cmd ...string) (out string, code int, err error) {
	x, err := e.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: cmd, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", 0, wrap(err, "create an exec in %s", id)
	}
	a, err := e.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", 0, wrap(err, "start an exec in %s", id)
	}
	defer a.Close()
	defer context.AfterFunc(ctx, a.Close)()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, a.Reader); err != nil {
		return b.String(), 0, wrap(err, "read from an exec in %s", id)
	}
	res, err := e.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
	return b.String(), res.ExitCode, wrap(err, "inspect an exec in %s", id)
}

// logs returns what a container has written.
func (e engine) logs(ctx context.Context, id string) (string, error) {
	r, err := e.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", wrap(err, "logs of %s", id)
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = stdcopy.StdCopy(&b, &b, r)
	return b.String(), wrap(err, "logs of %s", id)
}

// pull pulls an image and returns what was said.
func (e engine) pull(ctx context.Context, ref, auth string) (string, error) {
	r, err := e.ImagePull(ctx, ref, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return "", wrap(err, "pull %s", ref)
	}
	defer r.Close()
	var said strings.Builder
	for m, err := range r.JSONMessages(ctx) {
		if err == nil && m.Error != nil {
			err = m.Error
		}
		if err != nil {
			return said.String(), wrap(err, "pull %s", ref)
		}
		said.WriteString(m.Status + "\n")
	}
	return said.String(), nil
}

func (e engine) removeImage(ctx context.Context, ref string) error {
	_, err := e.ImageRemove(ctx, ref, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	return wrap(err, "remove image %s", ref)
}

// talk writes to a container's standard input and reads until it has answered
// want, from which it then detaches.
func (e engine) talk(ctx context.Context, id, say, want string) error {
	a, err := e.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		return wrap(err, "attach to %s", id)
	}
	defer a.Close()
	defer context.AfterFunc(ctx, a.Close)()
	if _, err := io.WriteString(a.Conn, say); err != nil {
		return wrap(err, "write to %s", id)
	}
	heard := &waitFor{want: want}
	if _, err := stdcopy.StdCopy(heard, heard, a.Reader); heard.found {
		return nil
	} else if err != nil {
		return wrap(err, "read from %s", id)
	}
	return fmt.Errorf("attached to %s: heard %q, want %q", id, heard.text, want)
}

// waitFor is written to until it has seen what it wants.
type waitFor struct {
	text, want string
	found      bool
}

func (w *waitFor) Write(p []byte) (int, error) {
	w.text += string(p)
	if w.found = strings.Contains(w.text, w.want); w.found {
		return 0, io.EOF
	}
	return len(p), nil
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
