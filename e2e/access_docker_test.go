package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// privateHost is a registry that the docker daemon does not take for one on this
// machine, with which it would be lenient.
const privateHost = "registry.test"

const privatePolicy = `
auth: {challenge: CHALLENGE}
policy:
- {who: [anonymous], repos: ["public/**"], may: [pull]}
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
- {who: [ci], repos: ["team/**"], may: [pull, push]}
audit: {output: stdout}
`

// privateRegistry starts a registry with TLS by a private authority on a machine
// of its own, where privateHost is its name and the authority is that of docker,
// podman and skopeo. It has the account alice and a key of the robot ci.
func privateRegistry(t *testing.T, challenge string) (s *berthtest.Server, m *berthtest.Machine, key string) {
	t.Helper()
	m = berthtest.NewMachine(t, berthtest.MachineOptions{})
	ca := berthtest.NewCA(t)
	cert, tlsKey := ca.Server(privateHost, m.Address)
	s = berthtest.Start(t, berthtest.Options{
		Machine: m, CA: ca, Addr: m.Address + ":5000",
		Config: "http: {tls: {cert: " + cert + ", key: " + tlsKey + "}}\n" + strings.ReplaceAll(privatePolicy, "CHALLENGE", challenge),
	})
	dir := t.TempDir()
	hosts := writeFile(t, dir, "hosts", []byte("127.0.0.1 localhost\n"+m.Address+" "+privateHost+"\n"))
	shell := berthtest.NewCommand(t, "sh", "-ec").On(m)
	certs := filepath.Join("/etc/docker/certs.d", privateHost+":"+s.Port())
	shell.Run(`mount --bind "$0" /etc/hosts; mkdir -p /etc/docker; mount -t tmpfs none /etc/docker; mkdir -p "$2"; cp "$1" "$2/ca.crt"`, hosts, ca.File, certs)

	s.Berth("user", "add", "alice", "--password-stdin").Input("the password of alice\n").Run()
	s.Berth("user", "add", "--robot", "ci").Run()
	key = strings.TrimSpace(s.Berth("token", "create", "--for", "ci", "--repo", "team/**", "--actions", "pull,push", "--expires", "1d").Run())
	return s, m, key
}

// TestDockerOverTLS logs in, pushes, pulls and logs out with a real docker daemon,
// by the token flow and by Basic.
func TestDockerOverTLS(t *testing.T) {
	for _, challenge := range []string{"bearer", "basic"} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			s, m, key := privateRegistry(t, challenge)
			host := privateHost + ":" + s.Port()
			d := docker{startDocker(t, m), host}
			image := d.build(t, "An image that is private", map[string][]byte{"a": []byte("a")})
			for _, name := range []string{"team/web:v1", "public/web:v1", "secret/web:v1"} {
				d.Run("tag", image, host+"/"+name)
			}
			refused := func(text string, args ...string) {
				t.Helper()
				stdout, stderr, err := d.Try(args...)
				if err == nil || !strings.Contains(stdout+stderr, text) {
					t.Errorf("docker %v: %v, %s%s; want an error with %q", args, err, stdout, stderr, text)
				}
			}
			login := func(user, password string) {
				t.Helper()
				d.Input(password+"\n").Run("login", host, "-u", user, "--password-stdin")
			}

			refused("", "push", host+"/team/web:v1") // not signed in
			// What the registry says of it docker tells only of the token endpoint.
			wrong := map[string]string{"bearer": "no such account, or wrong password", "basic": "401 Unauthorized"}[challenge]
			if _, stderr, err := d.Input("wrong\n").Try("login", host, "-u", "alice", "--password-stdin"); err == nil || !strings.Contains(stderr, wrong) {
				t.Errorf("login with a wrong password: %v, %s", err, stderr)
			}
			login("alice", "the password of alice")
			for _, name := range []string{"team/web:v1", "public/web:v1", "secret/web:v1"} {
				d.Run("push", host+"/"+name)
			}
			d.Run("logout", host)

			login("ci", key)
			d.Run("pull", host+"/team/web:v1")
			d.Run("push", host+"/team/web:v1")
			refused("denied", "push", host+"/public/web:v1")
			// What one may not see is not there: both have the same answer.
			_, hidden, _ := d.Try("pull", host+"/secret/web:v1")
			_, missing, _ := d.Try("pull", host+"/secret/none:v1")
			if hidden == "" || strings.ReplaceAll(hidden, "secret/web", "secret/none") != missing {
				t.Errorf("docker says of what is hidden:\n%sand of what is missing:\n%s", hidden, missing)
			}
			d.Run("logout", host)

			if challenge == "bearer" { // docker does not go on without credentials where Basic is asked for
				d.Run("pull", host+"/public/web:v1")
			}
			refused("", "pull", host+"/team/web:v1")
			noSecrets(t, s.Log(), "the password of alice", key)
		})
	}
}

// noSecrets fails the test if a log has a secret in it.
func noSecrets(t *testing.T, log string, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q in it", secret)
		}
	}
}
