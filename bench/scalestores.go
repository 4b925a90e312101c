package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// The programs that replicas share their data by.
const (
	nameS3       = "versitygw"
	namePostgres = "postgres"
)

// Credentials of the S3 server, whose data are gone when the benchmark ends.
const benchKey, benchSecret = "benchkey", "bench-secret"

// postgresDir is where Debian has PostgreSQL's programs.
func postgresDir() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	slices.Sort(found)
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// startS3 starts an S3 server with the buckets named, and returns its address.
func (b *bench) startS3(ctx context.Context, buckets ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &server{name: nameS3, addr: addr, dir: filepath.Join(b.dir, nameS3)}
	for _, bucket := range buckets {
		if err := os.MkdirAll(filepath.Join(s.data(), bucket), 0o700); err != nil {
			return nil, err
		}
	}
	program, _ := lookup(nameS3)
	s.proc, err = startProcess(s.dir, program, "--quiet", "--keep-alive", "--access", benchKey, "--secret", benchSecret, "--port", addr, "posix", s.data())
	if err != nil {
		return nil, err
	}
	b.servers = append(b.servers, s)
	return s, s.proc.listens(ctx, "tcp", addr)
}

// listens waits until somebody listens on an address, and fails if the process ends
// before.
func (p *process) listens(ctx context.Context, network, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s: %s", p.cmd.Path, p.cmd.ProcessState, p.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w: %s", p.cmd.Path, addr, err, p.lastLog())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// startPostgres starts a PostgreSQL server as Debian configures it, but for addresses and
// data, and returns the DSN of its database.
func (b *bench) startPostgres(ctx context.Context) (dsn string, err error) {
	s := &server{name: namePostgres, dir: filepath.Join(b.dir, namePostgres)}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return "", err
	}
	as, err := b.unprivileged(s.dir)
	if err != nil {
		return "", err
	}
	initdb := slices.Concat(as, []string{
		filepath.Join(postgresDir(), "initdb"), "--auth=trust", "--username=berth", "--encoding=UTF8", "--locale=C.UTF-8", "-D", s.data(),
	})
	cmd := exec.CommandContext(ctx, initdb[0], initdb[1:]...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	serve := slices.Concat(as, []string{filepath.Join(postgresDir(), namePostgres), "-D", s.data(), "-k", s.dir, "-h", host, "-p", port})
	if s.proc, err = startProcess(s.dir, serve[0], serve[1:]...); err != nil {
		return "", err
	}
	b.servers = append(b.servers, s)
	dsn = fmt.Sprintf("host=%s port=%s user=berth dbname=postgres sslmode=disable", s.dir, port)
	return dsn, s.proc.listens(ctx, "unix", filepath.Join(s.dir, ".s.PGSQL."+port))
}

// unprivileged gives a directory to who runs PostgreSQL, which refuses root, and returns
// what a command of theirs begins with.
func (b *bench) unprivileged(dir string) (as []string, err error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	// They may pass through the work directory, and see nothing else of it.
	return []string{"setpriv", "--reuid=" + u.Uid, "--regid=" + u.Gid, "--clear-groups"},
		errors.Join(os.Chmod(filepath.Dir(b.dir), 0o711), os.Chown(dir, uid, gid))
}

const replicaConfig = `storage:
  postgres: {dsn: %q}
  s3: {endpoint: "http://%s", bucket: %s, region: us-east-1, access_key: %s, secret_key: %s, path_style: true, redirect: false}
`

// startReplica starts a berth on S3 and PostgreSQL.
func (b *bench) startReplica(ctx context.Context, dir, dsn, s3, bucket string) (*server, error) {
	s, args, err := b.newBerth(dir)
	if err != nil {
		return nil, err
	}
	config, err := s.configure(fmt.Sprintf(replicaConfig, dsn, s3, bucket, benchKey, benchSecret))
	if err != nil {
		return nil, err
	}
	return b.start(ctx, s, "/readyz", b.binary, append(args, "--config", config)...)
}

const dockerRegistryS3Config = `version: 0.1
log: {level: error}
storage:
  s3: {regionendpoint: "http://%s", bucket: %s, region: us-east-1, accesskey: %s, secretkey: %s, secure: false, v4auth: true, pathstyle: true}
  redirect: {disable: true}
  cache: {blobdescriptor: inmemory}
  delete: {enabled: true}
http: {addr: %q}
`

// startDockerRegistryS3 starts a docker-registry on S3.
func (b *bench) startDockerRegistryS3(ctx context.Context, s3, bucket string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &server{name: nameDockerRegistry, addr: addr, dir: filepath.Join(b.dir, nameDockerRegistry)}
	config, err := s.configure(fmt.Sprintf(dockerRegistryS3Config, s3, bucket, benchKey, benchSecret, addr))
	if err != nil {
		return nil, err
	}
	// It refuses to start with AWS_CA_BUNDLE, which is none of its business here.
	return b.start(ctx, s, "/v2/", "env", "--unset=AWS_CA_BUNDLE", nameDockerRegistry, "serve", config)
}
