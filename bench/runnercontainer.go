package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// container is what is asked of an engine to create one.
type container struct {
	Image       string
	Cmd         []string
	Env         []string
	Volumes     map[string]struct{} `json:",omitempty"` // where it has one without a name
	Healthcheck *healthcheck        `json:",omitempty"`
	HostConfig  hostConfig
}

type hostConfig struct {
	NetworkMode string
	Binds       []string
	Memory      int64 `json:",omitempty"` // bytes
	NanoCPUs    int64 `json:"NanoCpus,omitempty"`
	PidsLimit   int64 `json:",omitempty"`
}

type healthcheck struct {
	Test     []string
	Interval time.Duration
}

// newContainer is on the default network and runs a command.
func newContainer(image string, command ...string) container {
	return container{Image: image, Cmd: command, HostConfig: hostConfig{NetworkMode: "bridge"}}
}

// forever is what an idle container does.
var forever = []string{"sleep", "1000000"}

// create creates a container and returns its ID.
func (e *engine) create(ctx context.Context, c container) (string, error) {
	var created struct{ ID string }
	err := e.call(ctx, http.MethodPost, "/containers/create", c, &created)
	return created.ID, err
}

func (e *engine) start(ctx context.Context, id string) error {
	return e.call(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil)
}

// wait waits until a container has ended, which must have succeeded.
func (e *engine) wait(ctx context.Context, id string) error {
	var ended struct{ StatusCode int }
	if err := e.call(ctx, http.MethodPost, "/containers/"+id+"/wait", nil, &ended); err != nil {
		return err
	}
	if ended.StatusCode != 0 {
		return fmt.Errorf("container %s ended with %d", id, ended.StatusCode)
	}
	return nil
}

// remove removes a container, whatever it does, and its volumes without names.
func (e *engine) remove(ctx context.Context, id string) error {
	return e.call(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
}

// running starts a container and returns its ID.
func (e *engine) running(ctx context.Context, c container) (string, error) {
	id, err := e.create(ctx, c)
	if err != nil {
		return "", err
	}
	return id, e.start(ctx, id)
}

// manyOf has clients call fn for 0 to n-1, each one after the other.
func manyOf(n, clients int, fn func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, clients)
	var done sync.WaitGroup
	for c := range clients {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[c] == nil; i = int(next.Add(1)) - 1 {
				errs[c] = fn(i)
			}
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// removeAll removes containers.
func (e *engine) removeAll(ctx context.Context, ids []string) error {
	return manyOf(len(ids), 4, func(i int) error { return e.remove(ctx, ids[i]) })
}

// pull pulls an image that the engine does not have.
func (e *engine) pull(ctx context.Context, image string) error {
	name, tag := image[:strings.LastIndex(image, ":")], image[strings.LastIndex(image, ":")+1:]
	body, err := e.open(ctx, http.MethodPost, "/images/create?"+url.Values{"fromImage": {name}, "tag": {tag}}.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for messages := json.NewDecoder(body); ; {
		var m struct{ Status, Error string }
		err := messages.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Error != "":
			return fmt.Errorf("pull %s: %s", image, m.Error)
		case m.Status == "Already exists":
			return fmt.Errorf("pull %s: a layer exists", image)
		}
	}
}

func (e *engine) removeImage(ctx context.Context, image string) error {
	return e.call(ctx, http.MethodDelete, "/images/"+image+"?force=1", nil, nil)
}

// exec runs a command in a container as docker does, but for the network of its
// own, and reads all that it says.
func (e *engine) exec(ctx context.Context, id string, command ...string) error {
	var created struct{ ID string }
	err := e.call(ctx, http.MethodPost, "/containers/"+id+"/exec", map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": command}, &created)
	if err != nil {
		return err
	}
	if err := e.call(ctx, http.MethodPost, "/exec/"+created.ID+"/start", map[string]any{"Detach": false, "Tty": false}, nil); err != nil {
		return err
	}
	var ended struct{ ExitCode *int }
	if err := e.call(ctx, http.MethodGet, "/exec/"+created.ID+"/json", nil, &ended); err != nil {
		return err
	}
	if ended.ExitCode == nil || *ended.ExitCode != 0 {
		return fmt.Errorf("exec of %v: exit code %v", command, ended.ExitCode)
	}
	return nil
}
