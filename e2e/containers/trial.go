package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// trial is what is tried with an image.
type trial struct{ image string }

// shell runs the image's shell, and is waited for.
func (t *trial) shell(ctx context.Context, command string, until wait.Strategy, opts ...testcontainers.ContainerCustomizer) (*testcontainers.DockerContainer, error) {
	return testcontainers.Run(ctx, t.image, append([]testcontainers.ContainerCustomizer{
		testcontainers.WithCmd("sh", "-c", command),
		testcontainers.WithWaitStrategyAndDeadline(30*time.Second, until),
		testcontainers.WithConfigModifier(func(c *container.Config) { c.StopSignal = "SIGKILL" }),
	}, opts...)...)
}

// end ends a container when fn is done with it.
func end(ctx context.Context, c *testcontainers.DockerContainer, fn func() error) error {
	return errors.Join(fn(), c.Terminate(ctx))
}

// waiting waits for containers in every way.
func (t *trial) waiting(ctx context.Context) error {
	const serve = "echo up; echo page >/tmp/index.html; httpd -f -p 8080 -h /tmp"
	port := testcontainers.WithExposedPorts("8080/tcp")
	healthy := testcontainers.WithConfigModifier(func(c *container.Config) {
		c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "test", "-e", "/tmp/index.html"}, Interval: 100 * time.Millisecond}
	})
	for name, until := range map[string]wait.Strategy{
		"log":            wait.ForLog("up"),
		"expression":     wait.ForLog("u[op]").AsRegexp(),
		"HTTP":           wait.ForHTTP("/index.html").WithPort("8080/tcp"),
		"listening port": wait.ForListeningPort("8080/tcp"),
		"exposed port":   wait.ForExposedPort(),
		"exec":           wait.ForExec([]string{"test", "-e", "/tmp/index.html"}),
		"health":         wait.ForHealthCheck(),
		"file":           wait.ForFile("/tmp/index.html"),
		"all":            wait.ForAll(wait.ForLog("up"), wait.ForListeningPort("8080/tcp")),
	} {
		c, err := t.shell(ctx, serve, until, port, healthy)
		if err == nil {
			err = end(ctx, c, func() error { return reads(ctx, c, "page\n") })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	c, err := t.shell(ctx, "exit 3", wait.ForExit())
	if err != nil {
		return err
	}
	return end(ctx, c, func() error {
		s, err := c.State(ctx)
		if err == nil && s.ExitCode != 3 {
			err = fmt.Errorf("exit code %d", s.ExitCode)
		}
		return err
	})
}

// reads asks for a page from a container's published port.
func reads(ctx context.Context, c *testcontainers.DockerContainer, want string) error {
	at, err := c.PortEndpoint(ctx, "8080/tcp", "http")
	if err != nil {
		return err
	}
	var got []byte
	for range 50 { // the log may say more than is so
		if got, err = page(ctx, at+"/index.html"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if string(got) != want {
		return fmt.Errorf("it has %q, %w", got, err)
	}
	return nil
}

func page(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// network has containers find each other.
func (t *trial) network(ctx context.Context) (err error) {
	n, err := network.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Remove(ctx)) }()
	server, err := t.shell(ctx, "echo page >/tmp/index.html; httpd -f -p 8080 -h /tmp", wait.ForExec([]string{"wget", "-q", "-O", "-", "localhost:8080"}),
		network.WithNetwork([]string{"server"}, n))
	if err != nil {
		return err
	}
	return end(ctx, server, func() error {
		c, err := t.shell(ctx, "wget -q -O - http://server:8080/", wait.ForLog("page"), network.WithNetwork(nil, n))
		if err != nil {
			return err
		}
		return end(ctx, c, func() error { _, err := c.ContainerIP(ctx); return err })
	})
}

// files brings files into containers and out of them.
func (t *trial) files(ctx context.Context) error {
	const volume = "trial"
	c, err := t.shell(ctx, "cat /given; touch /volume/here; sleep infinity", wait.ForLog("given"),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader("given"), ContainerFilePath: "/given", FileMode: 0o640}),
		testcontainers.WithMounts(testcontainers.VolumeMount(volume, "/volume")),
		testcontainers.WithTmpfs(map[string]string{"/scratch": "size=1m"}))
	if err != nil {
		return err
	}
	err = func() error {
		if err := c.CopyToContainer(ctx, []byte("content"), "/tmp/copied", 0o644); err != nil {
			return err
		}
		r, err := c.CopyFileFromContainer(ctx, "/tmp/copied")
		if err != nil {
			return err
		}
		defer r.Close()
		if got, err := io.ReadAll(r); string(got) != "content" || err != nil {
			return fmt.Errorf("copied: %q, %w", got, err)
		}
		code, out, err := c.Exec(ctx, []string{"sh", "-c", "stat -c %a /given; ls /volume; grep -c /scratch /proc/mounts; pwd; exit 5"}, exec.Multiplexed(), exec.WithWorkingDir("/tmp"))
		if err != nil {
			return err
		}
		if got, err := io.ReadAll(out); code != 5 || string(got) != "640\nhere\n1\n/tmp\n" || err != nil {
			return fmt.Errorf("exec: %q, %d, %w", got, code, err)
		}
		return nil
	}()
	return errors.Join(err, c.Terminate(ctx, testcontainers.RemoveVolumes(volume)))
}

// heard is what a container has written.
type heard struct {
	mu   sync.Mutex
	text map[string]string // by stream
	told chan struct{}
}

// Accept is testcontainers.LogConsumer's.
func (h *heard) Accept(l testcontainers.Log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text[l.LogType] += string(l.Content)
	if strings.Contains(h.text[testcontainers.StdoutLog], "second") && strings.Contains(h.text[testcontainers.StderrLog], "trouble") {
		select {
		case h.told <- struct{}{}:
		default:
		}
	}
}

// logs has what a container writes handed to the program, across a stop.
func (t *trial) logs(ctx context.Context) error {
	h := &heard{text: map[string]string{}, told: make(chan struct{}, 1)}
	c, err := t.shell(ctx, "test -e /again && echo second; touch /again; echo trouble >&2; echo up; sleep infinity", wait.ForLog("up"), testcontainers.WithLogConsumers(h))
	if err != nil {
		return err
	}
	return end(ctx, c, func() error {
		now := time.Duration(0)
		if err := c.Stop(ctx, &now); err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			return err
		}
		select {
		case <-h.told:
			return nil
		case <-time.After(20 * time.Second):
			return fmt.Errorf("heard %q", h.text)
		}
	})
}

// build runs an image that is built first.
func (t *trial) build(ctx context.Context) error {
	c, err := testcontainers.Run(ctx, "", testcontainers.WithDockerfile(testcontainers.FromDockerfile{
		ContextArchive: archive("Dockerfile", "FROM "+t.image+"\nARG WORD\nRUN echo $WORD >/word\nCMD cat /word\n"),
		Repo:           "trial", Tag: "built", BuildArgs: map[string]*string{"WORD": new("built")},
	}), testcontainers.WithWaitStrategy(wait.ForLog("built")))
	if err != nil {
		return err
	}
	return c.Terminate(ctx)
}

// again has a container used by name that is there already.
func (t *trial) again(ctx context.Context) error {
	first, err := t.shell(ctx, "echo up; sleep infinity", wait.ForLog("up"), testcontainers.WithReuseByName("again"))
	if err != nil {
		return err
	}
	return end(ctx, first, func() error {
		second, err := t.shell(ctx, "echo up; sleep infinity", wait.ForLog("up"), testcontainers.WithReuseByName("again"))
		if err == nil && second.GetContainerID() != first.GetContainerID() {
			err = errors.New("it is another")
		}
		return err
	})
}

// leave leaves what the reaper is to remove: a container with a volume, on a network.
func (t *trial) leave(ctx context.Context) error {
	n, err := network.New(ctx)
	if err != nil {
		return err
	}
	_, err = t.shell(ctx, "echo up; sleep infinity", wait.ForLog("up"), testcontainers.WithName("left"), network.WithNetwork(nil, n),
		testcontainers.WithMounts(testcontainers.VolumeMount("left", "/volume")))
	return err
}
