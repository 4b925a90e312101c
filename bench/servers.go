package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// server is something that is measured.
type server struct {
	name    string
	addr    string
	proc    *process // nil for one that ran before
	dir     string   // of its data, its log and its configuration
	metrics string   // address of its metrics, if it is berth

	encrypted bool // speaks TLS, with a certificate that nobody knows
}

// The names of the servers in figures.
const (
	nameBerth          = "berth"
	nameDockerRegistry = "docker-registry"
	nameNginx          = "nginx"
)

// bench is what a work has at hand: sizes, a directory, and the servers that it
// started, which end with it.
type bench struct {
	options
	scale
	work    string
	dir     string
	servers []*server
	serial  uint64 // makes content of images new
	images  *images
}

func newBench(o options, work, dir string) (*bench, error) {
	b := &bench{options: o, scale: newScale(o), work: work, dir: filepath.Join(dir, work)}
	return b, os.MkdirAll(b.dir, 0o755)
}

// close stops the servers that still run, last first, and removes what they stored.
func (b *bench) close() error {
	var errs []error
	for n := len(b.servers); n > 0; n = len(b.servers) {
		errs = append(errs, b.stop(b.servers[n-1], syscall.SIGTERM))
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// stop stops one server.
func (b *bench) stop(s *server, sig syscall.Signal) error {
	for i := range b.servers {
		if b.servers[i] == s {
			b.servers = append(b.servers[:i], b.servers[i+1:]...)
			break
		}
	}
	if s.proc == nil {
		return nil
	}
	return s.proc.stop(sig)
}

// start starts a server and waits until it answers 200 at the path ready.
func (b *bench) start(ctx context.Context, s *server, ready, program string, args ...string) (*server, error) {
	var err error
	if s.proc, err = startProcess(s.dir, program, args...); err != nil {
		return nil, err
	}
	b.servers = append(b.servers, s)
	client, url := http.DefaultClient, "http://"+s.addr+ready
	if s.encrypted {
		client, url = strangers(), "https://"+s.addr+ready
		defer client.CloseIdleConnections()
	}
	return s, s.proc.await(ctx, client, url)
}

// startBerth starts berth with its data in dir, below the work's own directory.
func (b *bench) startBerth(ctx context.Context, dir string) (*server, error) {
	s, args, err := b.newBerth(dir)
	if err != nil {
		return nil, err
	}
	return b.start(ctx, s, "/readyz", b.binary, args...)
}

// newBerth returns a berth that was not started, and its arguments.
func (b *bench) newBerth(dir string) (*server, []string, error) {
	addr, err := freeAddr()
	metrics, merr := freeAddr()
	s := &server{name: nameBerth, addr: addr, dir: filepath.Join(b.dir, dir), metrics: metrics}
	return s, []string{"serve", "--addr", s.addr, "--data", s.data(), "--metrics-addr", s.metrics}, errors.Join(err, merr)
}

// data is where a server's data is.
func (s *server) data() string { return filepath.Join(s.dir, "data") }

const dockerRegistryConfig = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %q}
  cache: {blobdescriptor: inmemory}
  delete: {enabled: true}
http: {addr: %q}
`

func (b *bench) startDockerRegistry(ctx context.Context) (*server, error) {
	return b.startDockerRegistryWith(ctx, "")
}

// startDockerRegistryWith starts it with more configuration.
func (b *bench) startDockerRegistryWith(ctx context.Context, more string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &server{name: nameDockerRegistry, addr: addr, dir: filepath.Join(b.dir, nameDockerRegistry)}
	config, err := s.configure(fmt.Sprintf(dockerRegistryConfig, s.data(), addr) + more)
	if err != nil {
		return nil, err
	}
	return b.start(ctx, s, "/v2/", nameDockerRegistry, "serve", config)
}

// nginxConfig is Debian's, with paths of the benchmark and without a limit to
// the requests of a connection.
const nginxConfig = `daemon off;
worker_processes auto;
pid nginx.pid;
error_log error.log;
%s
events { worker_connections 768; }
http {
	sendfile on;
	tcp_nopush on;
	default_type application/octet-stream;
	keepalive_requests 1000000000;
	access_log access.log;
	client_body_temp_path temp;
	proxy_temp_path temp;
	fastcgi_temp_path temp;
	uwsgi_temp_path temp;
	scgi_temp_path temp;
	server {
		listen %s;
		root %q;
	}
}
`

// startNginx serves the files in the data directory of what it returns.
func (b *bench) startNginx(ctx context.Context, put func(data string) error) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &server{name: nameNginx, addr: addr, dir: filepath.Join(b.dir, nameNginx)}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its workers could not read the work directory
	}
	config, err := s.configure(fmt.Sprintf(nginxConfig, user, addr, s.data()))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(s.data(), 0o755), os.WriteFile(filepath.Join(s.data(), "ready"), nil, 0o644), put(s.data())); err != nil {
		return nil, err
	}
	return b.start(ctx, s, "/ready", nginxProgram(), "-p", s.dir, "-c", config, "-e", "error.log")
}

// configure writes a server's configuration file and returns its path.
func (s *server) configure(text string) (string, error) {
	path := filepath.Join(s.dir, "config.yml")
	return path, errors.Join(os.MkdirAll(s.dir, 0o755), os.WriteFile(path, []byte(text), 0o644))
}

// startRegistries starts the registries that are compared; berth is the first.
func (b *bench) startRegistries(ctx context.Context) ([]*server, error) {
	berth, err := b.startBerth(ctx, nameBerth)
	if err != nil {
		return nil, err
	}
	docker, err := b.startDockerRegistry(ctx)
	if err != nil {
		return nil, err
	}
	all := []*server{berth, docker}
	for _, p := range b.peers {
		all = append(all, &server{name: p.name, addr: p.addr})
	}
	return all, nil
}
