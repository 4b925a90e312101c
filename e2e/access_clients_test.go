package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// private is a registry of privateRegistry as the clients of one test see it.
type private struct {
	machine  *berthtest.Machine
	host, ca string // the registry's name and port, the file of its authority
	basic    bool   // whether it asks for Basic rather than for a token
	key      string // of the robot ci, which may pull and push team/** only
	image    layout // what is in public/image, team/image and secret/image
	digest   digest.Digest
}

const alicePassword = "the password of alice"

// TestClientsOverTLS has each client sign in, push and pull over TLS by a private
// authority, and be refused what it may not, by the token flow and by Basic.
func TestClientsOverTLS(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	clients := map[string]func(private, *testing.T){
		"podman": private.podman, "skopeo": private.skopeo, "containerd": private.containerd, "helm": private.helm,
		"oras": private.oras, "crane": private.crane, "cosign": private.cosign, "buildkit": private.buildkit,
		"helper": private.helper, "berth": private.berth,
	}
	for challenge, names := range map[string][]string{
		"bearer": {"podman", "skopeo", "containerd", "helm", "oras", "crane", "cosign", "buildkit", "helper", "berth"},
		"basic":  {"podman", "skopeo", "containerd", "helm", "oras", "crane", "berth"},
	} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			s, m, key := privateRegistry(t, challenge)
			t.Cleanup(func() { noSecrets(t, s.Log(), alicePassword, key) })
			p := private{machine: m, host: privateHost + ":" + s.Port(), basic: challenge == "basic", key: key}
			p.ca = filepath.Join("/etc/docker/certs.d", p.host, "ca.crt")
			var desc ocispec.Descriptor
			p.image, desc = sampleImage(t)
			p.digest = desc.Digest
			skopeo := p.command(t, "skopeo")
			for _, repo := range []string{"public/image", "team/image", "secret/image"} {
				skopeo.Run("copy", "--dest-creds", "alice:"+alicePassword, "oci:"+p.image.dir+":latest", "docker://"+p.host+"/"+repo+":v1")
			}
			for _, name := range names {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					clients[name](p, t)
				})
			}
		})
	}
}

// command is a program on the registry's machine with a home of its own, which has
// the places in which clients keep their credentials.
func (p private) command(t *testing.T, name string, args ...string) *berthtest.Command {
	t.Helper()
	home := t.TempDir()
	writeFile(t, home, "auth.json", []byte("{}"))
	return berthtest.NewCommand(t, name, args...).On(p.machine).Env("HOME="+home, "XDG_RUNTIME_DIR="+home,
		"DOCKER_CONFIG="+home, "REGISTRY_AUTH_FILE="+filepath.Join(home, "auth.json"))
}

// mustRefuse fails the test unless the program fails and says why, in one of the
// ways that "|" parts.
func mustRefuse(t *testing.T, c *berthtest.Command, why string, args ...string) {
	t.Helper()
	stdout, stderr, err := c.Try(args...)
	said := strings.ToLower(stdout + stderr)
	if err == nil || !slices.ContainsFunc(strings.Split(why, "|"), func(s string) bool { return strings.Contains(said, s) }) {
		t.Errorf("%s: %v\n%s%swant it to fail with %q", strings.Join(args, " "), err, stdout, stderr, why)
	}
}

func (p private) podman(t *testing.T) {
	dir := t.TempDir()
	run, err := os.MkdirTemp("", "podman-") //nolint:usetesting // podman wants a path of at most 50 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	podman := p.command(t, "podman", "--root", filepath.Join(dir, "root"), "--runroot", run,
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
	archive := filepath.Join(dir, "image.tar")
	writeTar(t, archive, p.image.dir)
	podman.Run("load", "-q", "-i", archive)
	id := strings.TrimSpace(podman.Run("images", "-q", "--no-trunc"))

	mustRefuse(t, podman.Input("wrong\n"), "invalid username/password", "login", p.host, "-u", "alice", "--password-stdin")
	mustRefuse(t, podman, "unauthorized", "push", "-q", id, p.host+"/team/podman:v1")
	podman.Input(alicePassword+"\n").Run("login", p.host, "-u", "alice", "--password-stdin")
	podman.Run("push", "-q", id, p.host+"/team/podman:v1")
	podman.Run("logout", p.host)
	podman.Input(p.key+"\n").Run("login", p.host, "-u", "ci", "--password-stdin")
	podman.Run("rmi", "--all", "--force")
	podman.Run("pull", "-q", p.host+"/team/podman:v1")
	mustRefuse(t, podman, "denied", "push", "-q", p.host+"/team/podman:v1", p.host+"/secret/podman:v1")
	mustRefuse(t, podman, "unknown", "pull", "-q", p.host+"/secret/image:v1")
	podman.Run("logout", p.host)
	if !p.basic { // where it sends an empty password, which is a wrong one
		podman.Run("pull", "-q", p.host+"/public/image:v1")
	}
	mustRefuse(t, podman, "unauthorized", "pull", "-q", p.host+"/team/podman:v1")
}

func (p private) skopeo(t *testing.T) {
	skopeo, repo := p.command(t, "skopeo"), "docker://"+p.host+"/team/skopeo"
	source := "oci:" + p.image.dir + ":latest"
	login := func(user, password string) {
		t.Helper()
		skopeo.Input(password+"\n").Run("login", p.host, "-u", user, "--password-stdin")
	}
	mustRefuse(t, skopeo, "unauthorized", "copy", source, repo+":v1")
	login("ci", p.key)
	skopeo.Run("copy", source, repo+":v1")
	skopeo.Run("copy", "docker://"+p.host+"/team/image:v1", repo+":v2")
	if got := skopeo.Run("inspect", "--format", "{{.Digest}}", repo+":v1"); strings.TrimSpace(got) != p.digest.String() {
		t.Errorf("inspect says %s: want %s", got, p.digest)
	}
	type tagList struct{ Tags []string }
	if got, want := decode[tagList](t, skopeo.Run("list-tags", repo)).Tags, []string{"v1", "v2"}; !slices.Equal(got, want) {
		t.Errorf("tags %q: want %q", got, want)
	}
	mustRefuse(t, skopeo, "404 (not found)", "list-tags", "docker://"+p.host+"/secret/image")
	mustRefuse(t, skopeo, "denied", "delete", repo+":v1")
	skopeo.Run("logout", p.host)
	if !p.basic { // see podman
		skopeo.Run("inspect", "docker://"+p.host+"/public/image:v1")
	}
	mustRefuse(t, skopeo, "unauthorized", "inspect", repo+":v1")
	login("alice", alicePassword)
	skopeo.Run("delete", repo+":v1")
	mustRefuse(t, skopeo, "unknown", "inspect", repo+":v1")
}

func (p private) containerd(t *testing.T) {
	source, desc := sampleIndex(t)
	source.write(ocispec.ImageIndexFile, source.read(desc.Digest)) // containerd imports the layout's own index
	archive := filepath.Join(t.TempDir(), "image.tar")
	writeTar(t, archive, source.dir)
	ref := p.host + "/team/containerd:v1"
	ctr := startContainerd(t, t.TempDir()).On(p.machine)
	ctr.Run("images", "import", "--all-platforms", "--no-unpack", "--index-name", ref, archive)
	ctr.Run("images", "tag", ref, p.host+"/secret/containerd:v1")
	mustRefuse(t, ctr, "401 unauthorized", "images", "push", "--tlscacert", p.ca, ref)
	ctr.Run("images", "push", "--tlscacert", p.ca, "--user", "ci:"+p.key, ref)
	mustRefuse(t, ctr, "403 forbidden", "images", "push", "--tlscacert", p.ca, "--user", "ci:"+p.key, p.host+"/secret/containerd:v1")

	dir := t.TempDir()
	other := startContainerd(t, dir).On(p.machine)
	// Asked for Basic it tries a wrong password again until it is told that it was too often.
	mustRefuse(t, other, "401 unauthorized|429 too many requests", "images", "pull", "--tlscacert", p.ca, "--user", "containerd:wrong", ref)
	mustRefuse(t, other, "not found", "images", "pull", "--tlscacert", p.ca, "--user", "ci:"+p.key, p.host+"/secret/image:v1")
	// The other way to name the authority, which dockerd and Kubernetes have too.
	other.Run("images", "pull", "--all-platforms", "--hosts-dir", p.hostsDir(t), "--user", "ci:"+p.key, ref)
	sameBlobs(t, source.dir, filepath.Join(dir, "root", "io.containerd.content.v1.content"))
	other.Run("images", "pull", "--tlscacert", p.ca, p.host+"/public/image:v1")
}

// hostsDir is a directory in which containerd finds the authority of the registry.
func (p private) hostsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, p.host+"/hosts.toml", fmt.Appendf(nil, "server = \"https://%s\"\n[host.\"https://%[1]s\"]\n  ca = %q\n", p.host, p.ca))
	return dir
}

func (p private) helm(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	helm := p.command(t, "helm").Dir(dir).Env("HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	writeFile(t, dir, "app/Chart.yaml", []byte("apiVersion: v2\nname: app\ndescription: A chart\nversion: 1.2.3\n"))
	writeFile(t, dir, "app/templates/map.yaml", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n"))
	helm.Run("package", "app")
	push := func(repo string) []string {
		return []string{"push", "--ca-file", p.ca, "app-1.2.3.tgz", "oci://" + p.host + "/" + repo}
	}
	pull := []string{"pull", "--ca-file", p.ca, "oci://" + p.host + "/team/charts/app", "--version", "1.2.3", "-d", home}

	mustRefuse(t, helm.Input("wrong\n"), "wrong password|401", "registry", "login", "--ca-file", p.ca, p.host, "-u", "helm", "--password-stdin")
	helm.Input(p.key+"\n").Run("registry", "login", "--ca-file", p.ca, p.host, "-u", "ci", "--password-stdin")
	helm.Run(push("team/charts")...)
	mustRefuse(t, helm, "denied", push("secret/charts")...)
	helm.Run(pull...)
	sameFile(t, filepath.Join(dir, "app-1.2.3.tgz"), filepath.Join(home, "app-1.2.3.tgz"))
	helm.Run("registry", "logout", p.host)
	mustRefuse(t, helm, "unauthorized|credential not found", pull...)
}

func (p private) oras(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "model.bin", randomBytes(3, 1<<20))
	oras := p.command(t, "oras").Dir(dir)
	ref := p.host + "/team/oras:v1"
	mustRefuse(t, oras.Input("wrong\n"), "no such account, or wrong password", "login", "--ca-file", p.ca, p.host, "-u", "oras", "--password-stdin")
	oras.Input(p.key+"\n").Run("login", "--ca-file", p.ca, p.host, "-u", "ci", "--password-stdin")
	oras.Run("push", "--ca-file", p.ca, "--artifact-type", "application/vnd.test.model", ref, "model.bin")
	oras.Run("attach", "--ca-file", p.ca, "--artifact-type", "application/vnd.test.note", "--annotation", "note=yes", ref)
	if got := oras.Run("discover", "--ca-file", p.ca, ref); !strings.Contains(got, "application/vnd.test.note") {
		t.Errorf("discover found no note: %s", got)
	}
	mustRefuse(t, oras, "denied", "push", "--ca-file", p.ca, p.host+"/secret/oras:v1", "model.bin")
	mustRefuse(t, oras, "not found", "manifest", "fetch", "--ca-file", p.ca, p.host+"/secret/image:v1")
	back := t.TempDir()
	oras.Run("pull", "--ca-file", p.ca, "-o", back, ref)
	sameFile(t, filepath.Join(dir, "model.bin"), filepath.Join(back, "model.bin"))
	oras.Run("logout", p.host)
	mustRefuse(t, oras, "unauthorized|credential not found", "manifest", "fetch", "--ca-file", p.ca, ref)
}

func (p private) crane(t *testing.T) {
	crane := p.command(t, "crane").Env("SSL_CERT_FILE=" + p.ca)
	repo := p.host + "/team/crane"
	mustRefuse(t, crane, "unauthorized", "manifest", p.host+"/team/image:v1")
	crane.Input(p.key).Run("auth", "login", p.host, "-u", "ci", "--password-stdin")
	crane.Run("copy", p.host+"/team/image:v1", repo+":v1")
	crane.Run("validate", "--remote", repo+":v1")
	if got := strings.Fields(crane.Run("catalog", p.host)); !slices.Contains(got, "team/image") || slices.Contains(got, "secret/image") {
		t.Errorf("ci sees the repositories %q", got)
	}
	mustRefuse(t, crane, "denied", "copy", p.host+"/team/image:v1", p.host+"/secret/crane:v1")
	mustRefuse(t, crane, "denied", "delete", repo+":v1")
	mustRefuse(t, crane, "unknown", "manifest", p.host+"/secret/image:v1")
	crane.Run("auth", "logout", p.host)
	crane.Run("manifest", p.host+"/public/image:v1")
	mustRefuse(t, crane, "unauthorized", "manifest", repo+":v1")
}

func (p private) cosign(t *testing.T) {
	dir := t.TempDir()
	crane := p.command(t, "crane").Env("SSL_CERT_FILE="+p.ca, "DOCKER_CONFIG="+dir)
	crane.Input(p.key).Run("auth", "login", p.host, "-u", "ci", "--password-stdin")
	crane.Run("copy", p.host+"/team/image:v1", p.host+"/team/signed:v1")
	image := p.host + "/team/signed@" + p.digest.String()

	cosign := p.command(t, "cosign").Dir(dir).Env("COSIGN_PASSWORD=secret", "DOCKER_CONFIG="+dir)
	cosign.Run("generate-key-pair")
	cosign.Run("signing-config", "create", "--out", "services.json")
	cosign.Run("trusted-root", "create", "--out", "root.json")
	sign := []string{"sign", "--yes", "--registry-cacert", p.ca, "--key", "cosign.key", "--signing-config", "services.json"}
	cosign.Run(append(sign, image)...)
	verify := []string{"verify", "--registry-cacert", p.ca, "--key", "cosign.pub", "--insecure-ignore-tlog", "--trusted-root", "root.json", image}
	if got := cosign.Run(verify...); !strings.Contains(got, p.digest.String()) {
		t.Errorf("cosign verifies something else: %s", got)
	}
	mustRefuse(t, cosign, "404 not found", append(sign, p.host+"/secret/image@"+p.digest.String())...)
	crane.Run("auth", "logout", p.host)
	mustRefuse(t, cosign, "unauthorized", verify...)
}

func (p private) buildkit(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "Dockerfile", []byte("FROM "+p.host+"/team/image:v1\nCOPY Dockerfile /\n"))
	addr := "unix://" + filepath.Join(dir, "buildkit.sock")
	config := writeFile(t, dir, "buildkitd.toml", fmt.Appendf(nil, "[registry.%q]\nca = [%q]\n", p.host, p.ca))
	client := p.command(t, "buildctl", "--addr", addr).Env("DOCKER_CONFIG=" + dir)
	p.command(t, "buildkitd").Daemon(func() error {
		_, _, err := client.Try("debug", "workers")
		return err
	}, "--config", config, "--addr", addr, "--root", filepath.Join(dir, "root"), "--oci-worker=true", "--containerd-worker=false",
		"--oci-worker-binary", berthtest.Tool(t, "runc"), "--oci-worker-net", "host", "--oci-worker-snapshotter", "native")
	build := func(name string) []string {
		return []string{
			"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
			"--output", "type=image,push=true,name=" + p.host + "/" + name,
			// It is the client that gets tokens for the daemon.
			"--registry-auth-tlscontext", "host=" + p.host + ",ca=" + p.ca,
		}
	}
	mustRefuse(t, client, "401 unauthorized", build("team/built:v1")...)
	p.command(t, "crane").Env("SSL_CERT_FILE="+p.ca, "DOCKER_CONFIG="+dir).Input(p.key).Run("auth", "login", p.host, "-u", "ci", "--password-stdin")
	client.Run(build("team/built:v1")...)
	mustRefuse(t, client, "you may not push to repository secret/built", build("secret/built:v1")...)
}

// credentialHelper keeps credentials as docker's helpers do: docker-credential-*,
// which say and are told JSON.
const credentialHelper = `#!/bin/sh
set -e
said=$(cat)
file() { echo "DIR/$(printf %s "$1" | tr -c 'a-z0-9.' _)"; }
case $1 in
store) printf %s "$said" >"$(file "$(printf %s "$said" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')")" ;;
get) cat "$(file "$said")" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$(file "$said")" ;;
list) echo '{}' ;;
esac
`

// helper: docker keeps the password in a helper, where others find it.
func (p private) helper(t *testing.T) {
	bin, kept, config := t.TempDir(), t.TempDir(), t.TempDir()
	script := writeFile(t, bin, "docker-credential-berthtest", []byte(strings.ReplaceAll(credentialHelper, "DIR", kept)))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, "config.json", []byte(`{"credsStore": "berthtest"}`))
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "DOCKER_CONFIG=" + config, "SSL_CERT_FILE=" + p.ca}
	d := docker{startDocker(t, p.machine), p.host}
	d.Env(env[0])
	client := p.command(t, "docker").Env(env...).Env("DOCKER_HOST=" + strings.TrimSpace(d.Run("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")))
	crane := p.command(t, "crane").Env(env...)

	client.Input(p.key+"\n").Run("login", p.host, "-u", "ci", "--password-stdin")
	if got := readFile(t, filepath.Join(config, "config.json")); strings.Contains(got, p.key) || strings.Contains(got, `"auth":`) {
		t.Errorf("docker keeps the password beside its helper: %s", got)
	}
	client.Run("pull", p.host+"/team/image:v1")
	client.Run("tag", p.host+"/team/image:v1", p.host+"/team/helped:v1")
	client.Run("push", p.host+"/team/helped:v1")
	crane.Run("validate", "--remote", p.host+"/team/helped:v1")
	berth := p.command(t, "env").Env(env...)
	if got := berth.Run(berthtest.Binary(t, "berth"), "tags", p.host+"/team/helped"); !strings.Contains(got, "v1") {
		t.Errorf("berth tags says %s", got)
	}
	client.Run("logout", p.host)
	if left, err := os.ReadDir(kept); err != nil || len(left) > 0 {
		t.Errorf("docker logout leaves %v, %v", left, err)
	}
	mustRefuse(t, client, "", "pull", p.host+"/team/helped:v1")
}

// berth: the registry's own command, with docker's credentials.
func (p private) berth(t *testing.T) {
	config := t.TempDir()
	env := []string{"DOCKER_CONFIG=" + config, "SSL_CERT_FILE=" + p.ca}
	crane := p.command(t, "crane").Env(env...)
	berth := p.command(t, "env", append(slices.Clone(env), berthtest.Binary(t, "berth"))...)
	if got := strings.Fields(berth.Run("ls", p.host)); !slices.Contains(got, "public/image") || slices.Contains(got, "team/image") {
		t.Errorf("berth ls lists to anybody %q", got)
	}
	mustRefuse(t, berth, "docker login "+p.host, "tags", p.host+"/team/image")
	crane.Input(p.key).Run("auth", "login", p.host, "-u", "ci", "--password-stdin")
	if got := strings.Fields(berth.Run("ls", p.host)); !slices.Contains(got, "team/image") || slices.Contains(got, "secret/image") {
		t.Errorf("berth ls lists to ci %q", got)
	}
	berth.Run("copy", "--registry", p.host, "team/image:v1", "team/copy:v2")
	if got := berth.Run("tags", "--registry", p.host, "team/copy"); !strings.Contains(got, "v2") {
		t.Errorf("berth tags says %s", got)
	}
	mustRefuse(t, berth, "you may not push to repository secret/copy", "copy", "--registry", p.host, "team/image:v1", "secret/copy:v1")
	mustRefuse(t, berth, "you may not delete from repository team/copy", "rm", "--registry", p.host, "team/copy:v2")
	mustRefuse(t, berth, "'berth ls'", "tags", "--registry", p.host, "secret/image")
	crane.Input(alicePassword).Run("auth", "login", p.host, "-u", "alice", "--password-stdin")
	berth.Run("rm", "--registry", p.host, "team/copy:v2")
	mustRefuse(t, berth, "unknown", "copy", "--registry", p.host, "team/copy:v2", "team/copy:v3")
}
