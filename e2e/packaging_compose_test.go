package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// topology is what the Compose file describes, without its images: on a machine of its
// own, each service with a network of its own, its name in the others', the files that
// it mounts, and the user that its image has. The programs are this machine's.
type topology struct {
	t       *testing.T
	machine *berthtest.Machine
	project *types.Project
	stops   map[string]func(os.Signal) int
}

// networkScript makes what Docker makes of a network: an interface for each service,
// /etc/hosts for those who read it, and for HAProxy a server of names at 127.0.0.11.
const networkScript = `set -e
ip link add compose0 type bridge
ip address add 10.77.0.1/24 dev compose0
ip link set compose0 up
n=10
for name in $SERVICES; do
	n=$((n + 1))
	ip netns add "$name"
	ip link add "v$n" type veth peer name eth0 netns "$name"
	ip link set "v$n" master compose0 up
	ip -n "$name" link set lo up
	ip -n "$name" link set eth0 up
	ip -n "$name" address add "10.77.0.$n/24" dev eth0
	echo "10.77.0.$n $name" >>/run/hosts
done
echo "127.0.0.1 localhost" >>/run/hosts
mount --bind /run/hosts /etc/hosts
mount --bind "$SRV" /srv
mkdir -m 755 /run/secrets /run/postgres /run/bin
install -m 755 "$BERTH" /run/bin/berth
install -m 755 "$VERSITYGW" /run/bin/versitygw
for n in 1 2 3; do install -d -m 700 -o 65532 -g 65532 "/run/berth-$n"; done
chown postgres:postgres /run/postgres
`

// newTopology prepares a machine for the services, and has the first of them make the
// secrets.
func newTopology(t *testing.T) *topology {
	t.Helper()
	c := &topology{t: t, machine: berthtest.NewMachine(t, berthtest.MachineOptions{}), project: composeProject(t, nil), stops: map[string]func(os.Signal) int{}}
	c.on("sh", "-c", networkScript).Env(
		"SERVICES="+strings.Join(c.project.ServiceNames(), " "), "SRV="+t.TempDir(),
		"BERTH="+berthtest.Binary(t, "berth"), "VERSITYGW="+berthtest.Tool(t, "versitygw")).Run()
	for name := range c.project.Services {
		for _, of := range c.project.Services[name].Configs {
			writeFile(t, c.machine.Path("run", "files"), of.Target, []byte(c.project.Configs[of.Source].Content))
		}
	}
	c.secrets()
	return c
}

// on is a program on the machine, outside of all services.
func (c *topology) on(name string, args ...string) *berthtest.Command {
	return berthtest.NewCommand(c.t, name, args...).On(c.machine)
}

// in is a program in the network of a service, as a user of this machine or with an id,
// without privileges if it is not root.
func (c *topology) in(service, user string, args ...string) *berthtest.Command {
	for i, arg := range args { // files are not where the image has them
		for _, of := range c.project.Services[service].Configs {
			if arg == of.Target {
				args[i] = "/run/files" + arg
			}
		}
	}
	var drop []string
	if user != "root" {
		drop = []string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "--bounding-set=-all", "--no-new-privs"}
	}
	command := append(append([]string{"netns", "exec", service}, drop...), args...)
	env := []string{"PATH=/run/bin:/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for key, value := range c.project.Services[service].Environment {
		env = append(env, key+"="+*value)
	}
	return c.on("ip", command...).Env(env...)
}

// names are the addresses of the services.
func (c *topology) names() map[string]string {
	c.t.Helper()
	names := map[string]string{}
	for line := range strings.Lines(readFile(c.t, c.machine.Path("run", "hosts"))) {
		address, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		names[name] = address
	}
	return names
}

// secrets runs the service that makes the secrets, twice: they stay as they are.
func (c *topology) secrets() {
	c.t.Helper()
	run := func() string {
		c.in("secrets", "root", c.project.Services["secrets"].Entrypoint...).Run()
		text := ""
		for _, name := range []string{"s3_secret_key", "postgres_password", "postgres_dsn"} {
			text += readFile(c.t, c.machine.Path("run", "secrets", name)) + "\n"
		}
		return text
	}
	first := run()
	if second := run(); second != first || len(strings.Fields(first)) != 3 || len(strings.Fields(first)[0]) != 48 {
		c.t.Errorf("the secrets change with each start, or are not there")
	}
}

// start starts a service and waits until its health check holds.
func (c *topology) start(service, user string, args ...string) {
	c.t.Helper()
	c.stops[service] = c.in(service, user, args...).Service(func(string) error { return c.healthy(service) })
}

// healthy runs the health check of a service.
func (c *topology) healthy(service string) error {
	test := c.project.Services[service].HealthCheck.Test[1:]
	user := "65534" // nobody
	switch test[0] {
	case "wget": // as images of Alpine have it
		test = append([]string{"busybox"}, test...)
	case "/usr/bin/berth":
		test[0], user = "/run/bin/berth", "65532"
	}
	_, stderr, err := c.in(service, user, test...).Env(imageEnv(service)...).Try()
	if err != nil {
		return errors.Join(err, errors.New(stderr))
	}
	return nil
}

// imageEnv is the environment that packaging/Dockerfile sets, but for the directory.
func imageEnv(service string) []string {
	return []string{"BERTH_HTTP_ADDR=:5000", "BERTH_METRICS_ADDR=:5001", "BERTH_STORAGE_DATA=/run/" + service}
}

// postgres does what the image of PostgreSQL does at its first start.
func (c *topology) postgres() {
	c.t.Helper()
	c.in("postgres", "postgres", "sh", "-c", `set -e
initdb --no-sync --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS -D /run/postgres
echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D /run/postgres postgres
echo "host all berth 0.0.0.0/0 scram-sha-256" >>/run/postgres/pg_hba.conf`).Run()
	c.start("postgres", "postgres", "postgres", "-D", "/run/postgres", "-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off")
}

// berth starts a server.
func (c *topology) berth(service string) {
	c.t.Helper()
	args := append([]string{"/run/bin/berth"}, c.project.Services[service].Command...)
	c.stops[service] = c.in(service, "65532", args...).Env(imageEnv(service)...).Service(func(string) error { return c.healthy(service) })
}

// TestComposeServes runs what the Compose file describes: images are pushed and pulled,
// while each server in turn is stopped and started, and while one is killed.
func TestComposeServes(t *testing.T) {
	t.Parallel()
	c := newTopology(t)
	c.postgres()
	c.start("s3", "root", c.project.Services["s3"].Entrypoint...)
	servers := []string{"berth-1", "berth-2", "berth-3"}
	for _, name := range servers {
		c.berth(name)
	}
	serveNames(t, c.machine.Path("run", "netns", "lb"), c.names())
	c.start("lb", "65534", "haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg")

	at := c.names()["lb"] + ":5000"
	crane := c.on("crane", "--insecure")
	source, desc := sampleIndex(t)
	source.write("index.json", source.read(desc.Digest))
	push := func(tag string) error {
		_, stderr, err := crane.Try("push", "--index", source.dir, at+"/team/app:"+tag)
		if err != nil {
			return fmt.Errorf("push %s: %w: %s", tag, err, stderr)
		}
		return nil
	}
	if err := push("first"); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "layout")
	crane.Run("pull", "--format", "oci", at+"/team/app:first", back)
	sameBlobs(t, source.dir, back)

	client := c.machine.Client()
	defer client.CloseIdleConnections()
	during := func(what string, fn func()) {
		t.Helper()
		end, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- useUntil(end, client, "http://"+at, what, push) }()
		fn()
		close(end)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	during("a new version of each server", func() {
		for _, name := range servers {
			if code := c.stops[name](syscall.SIGTERM); code != 0 {
				t.Errorf("%s ended with %d", name, code)
			}
			c.berth(name)
		}
	})
	c.stops["berth-2"](syscall.SIGKILL)
	during("a server that was killed", func() {
		for range 3 {
			if err := push("killed"); err != nil {
				t.Error(err)
			}
		}
	})
	crane.Run("validate", "--remote", at+"/team/app:first")
	if code := c.stops["lb"](syscall.SIGUSR1); code != 0 {
		t.Errorf("HAProxy ended with %d", code)
	}
}

// useUntil pulls and pushes until end is closed, and returns the first failure.
func useUntil(end <-chan struct{}, client *http.Client, url, name string, push func(tag string) error) error {
	for n := 0; ; n++ {
		for range 20 {
			resp, err := client.Get(url + "/v2/team/app/manifests/first")
			if err != nil {
				return err
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("a pull: %s", resp.Status)
			}
		}
		if err := push(fmt.Sprintf("%c-%d", name[0], n)); err != nil {
			return err
		}
		select {
		case <-end:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}
