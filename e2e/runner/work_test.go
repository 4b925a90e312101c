package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// worker is a client that does one kind of thing again and again, and remembers
// what was acknowledged.
type worker struct {
	name     string
	host     *host
	rand     *rand.Rand
	do       func(*worker, context.Context) error
	subjects []*subject
	steps    *steps
	docker   *berthtest.Command
}

// newWorkers returns the clients of a round.
func newWorkers(h *host, round int) []*worker {
	var all []*worker
	for i, do := range []func(*worker, context.Context) error{
		(*worker).life, (*worker).life, (*worker).life, (*worker).short, (*worker).command, (*worker).images,
	} {
		all = append(all, &worker{
			name: fmt.Sprintf("worker-%d", i), host: h, do: do, docker: h.docker, steps: newSteps(),
			rand: rand.New(rand.NewPCG(*seeds, uint64(1000*(round+1)+i))),
		})
	}
	return all
}

// newChoreWorkers returns clients of which each does a chore again and again.
func newChoreWorkers(b *builder) []*worker {
	var all []*worker
	for _, c := range chores {
		all = append(all, &worker{name: c.image(), host: b.host, steps: newSteps(), do: func(w *worker, ctx context.Context) error {
			return c.do(ctx, b, w.name, w.steps)
		}})
	}
	return all
}

// work goes on until something fails.
func (w *worker) work(ctx context.Context) error {
	for {
		if err := w.do(w, ctx); err != nil {
			return err
		}
	}
}

// life leads a container through its life.
func (w *worker) life(ctx context.Context) error {
	e := w.host.api
	s := w.subject(-1)
	err := s.step("create", func() (err error) {
		s.id, err = e.create(ctx, spec{s.name, w.host.image("busybox"), []string{"sleep", "1000"}, w.decorate})
		return err
	})
	if err != nil {
		return err
	}
	if err := s.step("start", func() error { return e.start(ctx, s.id) }); err != nil {
		return err
	}
	c, err := e.inspect(ctx, s.id)
	if err != nil {
		return err
	}
	s.pid = c.State.Pid
	if w.rand.IntN(2) == 0 {
		if out, code, err := e.exec(ctx, s.id, "sh", "-c", "echo said; exit 3"); err != nil || code != 3 || out != "said\n" {
			return fmt.Errorf("exec wrote %q and ended with %d: %w", out, code, err)
		}
	}
	if w.rand.IntN(2) == 0 {
		if err := s.step("stop", func() error { return e.stop(ctx, s.id) }); err != nil {
			return err
		}
	}
	return s.step("remove", func() error { return e.remove(ctx, s.id) })
}

// decorate gives some containers what takes longer to make.
func (w *worker) decorate(c *container.Config, hc *container.HostConfig) {
	if w.rand.IntN(3) == 0 {
		c.Volumes = map[string]struct{}{"/data": {}}
	}
	if w.rand.IntN(3) == 0 {
		hc.Mounts = []mount.Mount{mountedVolume()}
	}
	if w.rand.IntN(3) == 0 {
		port := network.MustParsePort("80/tcp")
		c.ExposedPorts = network.PortSet{port: {}}
		hc.PortBindings = network.PortMap{port: {{}}}
	}
}

// mountedVolume is one without a name that is mounted while its container runs.
func mountedVolume() mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Target: "/mounted", VolumeOptions: &mount.VolumeOptions{
		DriverConfig: &mount.Driver{Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}},
	}}
}

// short runs containers that end by themselves.
func (w *worker) short(ctx context.Context) error {
	e := w.host.api
	s := w.subject(w.rand.IntN(256))
	script := fmt.Sprintf("echo one; sleep 0.%d; echo two; exit %d", w.rand.IntN(4), s.code)
	err := s.step("create", func() (err error) {
		s.id, err = e.create(ctx, spec{s.name, w.host.image("busybox"), []string{"sh", "-c", script}, nil})
		return err
	})
	if err != nil {
		return err
	}
	return s.step("start", func() error { return e.start(ctx, s.id) })
}

// command runs containers as people do, with the docker command.
func (w *worker) command(context.Context) error {
	out, stderr, err := w.docker.Try("run", "--rm", w.host.image("busybox"), "echo", "hello")
	if err == nil && out != "hello\n" {
		err = fmt.Errorf("it wrote %q", out)
	}
	return wrap(err, "docker run --rm says %q", stderr)
}

// images pulls an image and removes it.
func (w *worker) images(ctx context.Context) error {
	e, ref := w.host.api, w.host.image("layers")
	if _, err := e.pull(ctx, ref, ""); err != nil {
		return err
	}
	if _, err := e.ImageInspect(ctx, ref); err != nil {
		return wrap(err, "inspect an image that was pulled")
	}
	return e.removeImage(ctx, ref)
}

// subject is a container of which the worker knows what it asked for last, and
// what was acknowledged last: create, start, stop or remove.
type subject struct {
	name        string
	id          string
	code        int // with which it ends by itself, or -1 for one that does not
	pid         int // 0 if it is not known
	asked, done string
}

func (w *worker) subject(code int) *subject {
	s := &subject{name: fmt.Sprintf("%s-%d", w.name, len(w.subjects)), code: code}
	w.subjects = append(w.subjects, s)
	return s
}

func (s *subject) step(name string, do func() error) error {
	s.asked = name
	err := do()
	if err == nil {
		s.done = name
	}
	return err
}

// check says whether the runner has a container as it must be.
func (s *subject) check(ctx context.Context, h *host) error {
	var c container.InspectResponse
	// The news of an end may be on its way while the process is gone already.
	err := eventually(func() (err error) {
		c, err = h.api.inspect(ctx, s.name)
		if err == nil && c.State.Running && !h.Machine.Exists(c.State.Pid) {
			return fmt.Errorf("it is said to run as process %d, which there is not", c.State.Pid)
		}
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case c.ID == "":
		if s.done != "remove" && s.asked != "remove" && s.done != "" {
			return errors.New("it is not there")
		}
		return nil
	case s.done == "remove":
		return fmt.Errorf("it is there and %s", c.State.Status)
	case s.code >= 0 && s.done == "start":
		return s.ended(ctx, h.api)
	}
	st := c.State
	allowed := map[string]string{
		"create/create": "created", "create/start": "created running exited", "create/": "created", "/create": "created",
		"start/start": "running", "start/stop": "running exited", "start/remove": "running exited", "create/remove": "created",
		"stop/stop": "exited", "stop/remove": "exited",
	}[s.done+"/"+s.asked]
	if !strings.Contains(" "+allowed+" ", " "+string(st.Status)+" ") {
		return fmt.Errorf("it is %s (%d, %q): want %s", st.Status, st.ExitCode, st.Error, allowed)
	}
	if s.done == "stop" && st.ExitCode != 137 {
		return fmt.Errorf("it was stopped with exit code %d: want 137", st.ExitCode)
	}
	if st.Running && s.pid != 0 && st.Pid != s.pid {
		return fmt.Errorf("its process was %d and is %d", s.pid, st.Pid)
	}
	return nil
}

// ended says whether a container that ends by itself has done all that it was
// to do.
func (s *subject) ended(ctx context.Context, e engine) error {
	code, err := e.wait(ctx, s.id)
	if err != nil {
		return err
	}
	if int(code) != s.code {
		return fmt.Errorf("it ended with %d: want %d", code, s.code)
	}
	out, err := e.logs(ctx, s.id)
	if err == nil && out != "one\ntwo\n" {
		err = fmt.Errorf("its log is %q", out)
	}
	return err
}

// goneOrGoing says whether err is that of a container that another removes.
func goneOrGoing(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsConflict(err) }
