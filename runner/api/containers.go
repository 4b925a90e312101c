package api

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// container is the name of the container in the path. That it may begin with a
// slash is how lists give names.
func (x *exchange) container() string { return strings.TrimPrefix(x.name, "/") }

func (x *exchange) listContainers() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	if _, ok := filters["annotation"]; ok && !x.v.annotationFilter() {
		return runner.Errorf(runner.ErrInvalid, "invalid filter 'annotation'")
	}
	opts := runner.ListOptions{All: x.isSet("all"), Size: x.isSet("size"), Filters: filters}
	if opts.Limit, err = x.number("limit"); err != nil {
		return err
	}
	// The newest of before there were filters, and all of after.
	for _, key := range []string{"since", "before"} {
		if of := x.q.Get(key); of != "" {
			if opts.Filters == nil {
				opts.Filters = runner.Filters{}
			}
			opts.Filters[key] = append(opts.Filters[key], of)
		}
	}
	list, err := x.engine.ListContainers(x.r.Context(), opts)
	if err != nil {
		return err
	}
	return jsonList(x, x.v.containerList(list))
}

func (x *exchange) inspectContainer() error {
	c, err := x.engine.InspectContainer(x.r.Context(), x.container(), x.isSet("size"))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.container(&c))
}

func (x *exchange) createContainer() error {
	var b createBody
	found, err := x.body(&b)
	if err != nil {
		return err
	}
	if !found {
		return runner.Errorf(runner.ErrInvalid, "invalid JSON: got EOF while reading request body")
	}
	req := runner.CreateRequest{Name: x.q.Get("name")}
	if req.Name != "" {
		if err := checkName(req.Name); err != nil {
			return err
		}
		req.Name = strings.TrimPrefix(req.Name, "/")
	}
	if x.v.createPlatform() {
		if req.Platform, err = x.namedPlatform(); err != nil {
			return err
		}
	}
	var warnings []string
	if req.CreateRequest, warnings, err = x.v.create(&b); err != nil {
		return err
	}
	if _, err := reference.ParseAnyReference(req.Image); err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	created, err := x.engine.CreateContainer(x.r.Context(), req)
	if err != nil {
		return err
	}
	created.Warnings = notNil(append(created.Warnings, warnings...))
	return x.json(http.StatusCreated, created)
}

const nameChars = `[a-zA-Z0-9][a-zA-Z0-9_.-]`

// checkName says what is wrong with a name for a container.
func checkName(name string) error {
	if ok, _ := regexp.MatchString(`^/?`+nameChars+`+$`, name); !ok {
		return runner.Errorf(runner.ErrInvalid, "Invalid container name (%s), only %s are allowed", name, nameChars)
	}
	return nil
}

func (x *exchange) startContainer() error {
	// Before 1.24 the body was the container's configuration. Some clients still
	// send an empty object.
	if x.r.ContentLength > 7 || x.r.ContentLength == -1 {
		return runner.Errorf(runner.ErrInvalid, "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if x.q.Get("checkpoint") != "" {
		return runner.Errorf(runner.ErrNotImplemented, "checkpointing is not supported by Berth")
	}
	if err := x.engine.StartContainer(x.r.Context(), x.container()); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

// stopOptions reads how a container is to be stopped.
func (x *exchange) stopOptions() (runner.StopOptions, error) {
	var opts runner.StopOptions
	if x.v.stopSignal() {
		opts.Signal = x.q.Get("signal")
	}
	if s := x.q.Get("t"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return opts, runner.Errorf(runner.ErrInvalid, "invalid value for t: %w", err)
		}
		opts.Timeout = &n
	}
	return opts, nil
}

func (x *exchange) stopContainer() error {
	opts, err := x.stopOptions()
	if err != nil {
		return err
	}
	if err := x.engine.StopContainer(x.r.Context(), x.container(), opts); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) restartContainer() error {
	opts, err := x.stopOptions()
	if err != nil {
		return err
	}
	if err := x.engine.RestartContainer(x.r.Context(), x.container(), opts); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) killContainer() error {
	if err := x.engine.KillContainer(x.r.Context(), x.container(), x.q.Get("signal")); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", x.name, err)
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) pauseContainer() error {
	if err := x.engine.PauseContainer(x.r.Context(), x.container()); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) unpauseContainer() error {
	if err := x.engine.UnpauseContainer(x.r.Context(), x.container()); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

// waitContainer answers in two parts: that it waits, which a client needs to know
// before it starts the container, and how it ended.
func (x *exchange) waitContainer() error {
	until := container.WaitConditionNotRunning
	if s := x.q.Get("condition"); s != "" && x.v.waitCondition() {
		until = container.WaitCondition(s)
		switch until {
		case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
		default:
			return runner.Errorf(runner.ErrInvalid, "invalid condition: %q", s)
		}
	}
	ctx := x.r.Context()
	ended, err := x.engine.WaitContainer(ctx, x.container(), until)
	if err != nil {
		return err
	}
	if x.v.waitCondition() {
		x.w.Header()["Content-Type"] = []string{"application/json"}
		x.w.Flush()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case end := <-ended:
		if end.Error != nil && !x.v.waitErrors() && until == container.WaitConditionRemoved {
			return nil // no answer is how it was said that removing failed
		}
		return x.json(http.StatusOK, end)
	}
}

func (x *exchange) renameContainer() error {
	name := x.q.Get("name")
	if name == "" {
		return runner.Errorf(runner.ErrInvalid, "Neither old nor new names may be empty")
	}
	name = strings.TrimPrefix(name, "/")
	if err := checkName("/" + name); err != nil {
		return fmt.Errorf("Error when allocating new name: %w", err)
	}
	if err := x.engine.RenameContainer(x.r.Context(), x.container(), name); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) updateContainer() error {
	var u container.UpdateConfig
	if _, err := x.body(&u); err != nil {
		return err
	}
	x.v.update(&u)
	answer, err := x.engine.UpdateContainer(x.r.Context(), x.container(), u)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, answer)
}

func (x *exchange) removeContainer() error {
	opts := runner.RemoveOptions{Force: x.isSet("force"), Volumes: x.isSet("v"), Link: x.isSet("link")}
	if err := x.engine.RemoveContainer(x.r.Context(), x.container(), opts); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) topContainer() error {
	top, err := x.engine.TopContainer(x.r.Context(), x.container(), x.q.Get("ps_args"))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, top)
}

func (x *exchange) resizeContainer() error {
	height, width, err := x.size()
	if err != nil {
		return err
	}
	if err := x.engine.ResizeContainer(x.r.Context(), x.container(), height, width); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) pruneContainers() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	report, err := x.engine.PruneContainers(x.r.Context(), filters)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, report)
}
