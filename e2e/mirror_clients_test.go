package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// hubHost is what Docker Hub's registry is called.
const hubHost = "registry-1.docker.io"

// hub is a machine without the Internet, on which a berth is Docker Hub and another
// one mirrors it.
type hub struct {
	t       *testing.T
	machine *berthtest.Machine
	ca      *berthtest.CA
	hub     *berthtest.Server // "Docker Hub"
	mirror  *berthtest.Server
	certs   string // directory with the authority, as skopeo wants it
	login   string // of who may push to Docker Hub
}

// startHub starts both. Docker Hub wants to know who pulls, and the mirror has an
// account there; policy is that of the mirror.
func startHub(t *testing.T, policy string) *hub {
	t.Helper()
	m := berthtest.NewMachine(t, berthtest.MachineOptions{})
	ca := berthtest.NewCA(t)
	dir := t.TempDir()
	hosts := writeFile(t, dir, "hosts", []byte("127.0.0.1 localhost\n"+m.Address+" "+privateHost+" "+hubHost+"\n"))
	certs := filepath.Join("/etc/docker/certs.d", privateHost+":5000")
	berthtest.NewCommand(t, "sh", "-ec").On(m).Run(`mount --bind "$0" /etc/hosts; mkdir -p /etc/docker; mount -t tmpfs none /etc/docker; mkdir -p "$2"; cp "$1" "$2/ca.crt"`, hosts, ca.File, certs)

	h := &hub{t: t, machine: m, ca: ca, certs: t.TempDir()}
	writeFile(t, h.certs, "ca.crt", []byte(readFile(t, ca.File)))
	cert, key := ca.Server(hubHost, m.Address)
	h.hub = berthtest.Start(t, berthtest.Options{
		Machine: m, CA: ca, Addr: m.Address + ":443",
		Config: fmt.Sprintf("http: {public_url: \"https://%s\", tls: {cert: %q, key: %q}}\npolicy:\n- {who: [publisher], repos: [\"**\"], may: [pull, push, delete]}\n- {who: [acme], repos: [\"**\"], may: [pull]}\n", hubHost, cert, key),
	})
	password := "pw-" + rand.Text()
	secret := "pw-" + rand.Text()
	h.login = "publisher:" + secret
	h.hub.Berth("user", "add", "acme", "--password-stdin").Input(password + "\n").Run()
	h.hub.Berth("user", "add", "publisher", "--password-stdin").Input(secret + "\n").Run()
	cert, key = ca.Server(privateHost, m.Address)
	h.mirror = berthtest.Start(t, berthtest.Options{
		Machine: m, CA: ca, Addr: m.Address + ":5000",
		Config: fmt.Sprintf("http: {tls: {cert: %q, key: %q}}\nmirrors:\n- {name: hub, upstream: \"https://%s\", ca: %q, username: acme, password: %q, registry_mirror: true, %s}\n%s",
			cert, key, hubHost, ca.File, password, quick, policy),
	})
	t.Cleanup(func() {
		noSecrets(t, h.mirror.Log(), password)
		for line := range strings.Lines(h.mirror.Log()) {
			if t.Failed() && (strings.Contains(line, `"status":4`) || strings.Contains(line, `"status":5`)) {
				t.Log("the mirror refused ", line)
			}
		}
	})
	return h
}

// push publishes an image on Docker Hub.
func (h *hub) push(source layout, repo string) {
	h.t.Helper()
	berthtest.NewCommand(h.t, "skopeo").On(h.machine).Run("copy", "--all", "--dest-creds", h.login, "--dest-cert-dir", h.certs,
		"oci:"+source.dir+":latest", "docker://"+hubHost+"/"+repo)
}

// publish publishes a new image on Docker Hub.
func (h *hub) publish(repo string) digest.Digest {
	h.t.Helper()
	source, desc := sampleIndex(h.t)
	h.push(source, repo)
	return desc.Digest
}

// policies are ways in which the mirror may be open to those who do not sign in.
var policies = map[string]string{
	"open":       "",
	"restricted": "policy:\n- {who: [anonymous], repos: [\"hub/**\"], may: [pull, fetch]}\n",
}

// TestMirrorForDocker has a docker daemon pull what is on Docker Hub, by its own names
// and by the mirror's, first through the mirror and then without Docker Hub.
func TestMirrorForDocker(t *testing.T) {
	t.Parallel()
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHub(t, policy)
			tool, app := h.publish("library/tool:v1"), h.publish("acme/app:v1")
			mirror := "https://" + privateHost + ":5000"
			d := startDockerWith(t, h.machine, `{"registry-mirrors": ["`+mirror+`"]}`)
			pull := func() {
				t.Helper()
				for name, want := range map[string]digest.Digest{
					"tool:v1": tool, "docker.io/acme/app:v1": app, privateHost + ":5000/hub/tool:v1": tool, privateHost + ":5000/hub/library/tool:v1": tool,
				} {
					d.Run("pull", name)
					if got := d.Run("image", "inspect", "-f", "{{.RepoDigests}}", name); !strings.Contains(got, want.String()) {
						t.Errorf("%s is %s, want %s", name, got, want)
					}
					d.Run("rmi", "-f", name)
				}
			}
			pull()
			log := h.hub.Log()
			if !strings.Contains(log, "library/tool") {
				t.Errorf("Docker Hub was not asked: %s", log)
			}
			if _, _, err := d.Try("pull", "nothing:v1"); err == nil {
				t.Error("docker pulls what is nowhere")
			}
			h.hub.Kill()
			pull()
			if _, _, err := d.Try("pull", "nothing:v1"); err == nil {
				t.Error("docker pulls what is nowhere, when Docker Hub is away")
			}
			h.hub.Restart()
			tool, app = h.publish("library/tool:v1"), h.publish("acme/app:v1")
			waitFor(t, "new image in the mirror", func() bool {
				d.Run("pull", "tool:v1")
				return strings.Contains(d.Run("image", "inspect", "-f", "{{.RepoDigests}}", "tool:v1"), tool.String())
			})
			d.Run("rmi", "-f", "tool:v1")
			waitFor(t, "other new image in the mirror", func() bool {
				d.Run("pull", "acme/app:v1")
				return strings.Contains(d.Run("image", "inspect", "-f", "{{.RepoDigests}}", "acme/app:v1"), app.String())
			})
			pull()
		})
	}
}

// TestMirrorForContainerd has a containerd pull what is on Docker Hub from the mirror,
// which it tells by ?ns= whose names it uses.
func TestMirrorForContainerd(t *testing.T) {
	t.Parallel()
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHub(t, policy)
			source, first := sampleIndex(t)
			h.push(source, "library/tool:v1")
			hosts := t.TempDir()
			writeFile(t, hosts, "docker.io/hosts.toml", fmt.Appendf(nil, "server = \"https://%s\"\n[host.\"https://%s:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = %q\n", hubHost, privateHost, h.ca.File))
			pull := func() {
				t.Helper()
				dir := t.TempDir()
				startContainerdOn(t, h.machine, dir).Run("images", "pull", "--hosts-dir", hosts, "--all-platforms", "docker.io/library/tool:v1")
				got := readTree(t, filepath.Join(dir, "root", "io.containerd.content.v1.content", "blobs"))
				got.same(t, readTree(t, filepath.Join(source.dir, "blobs")))
			}
			pull()
			h.hub.Kill()
			pull()
			w := newWire(h.mirror.URL)
			w.http.Transport = h.ca.On(h.machine).Transport
			path := "/v2/library/tool/manifests/" + first.Digest.String()
			a := must(w.must(http.StatusOK, "GET", path+"?ns=docker.io", nil))(t)
			if ns := a.header.Get("OCI-Namespace"); ns != "docker.io" {
				t.Errorf("the mirror answers for the namespace %q", ns)
			}
			if a := must(w.do("GET", path+"?ns=quay.io", nil))(t); a.status != http.StatusNotFound && a.status != http.StatusUnauthorized {
				t.Errorf("for a namespace that it does not mirror: %s", a)
			}
		})
	}
}

// TestMirrorForPodman has podman and skopeo pull what is on Docker Hub from the mirror,
// which their registries.conf names.
func TestMirrorForPodman(t *testing.T) {
	t.Parallel()
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHub(t, policy)
			source, first := sampleIndex(t)
			h.push(source, "library/tool:v1")
			dir := t.TempDir()
			conf := writeFile(t, dir, "registries.conf", fmt.Appendf(nil, "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"%s:5000/hub\"\n", privateHost))
			env := "CONTAINERS_REGISTRIES_CONF=" + conf
			podman := berthtest.NewCommand(t, "podman", "--root", filepath.Join(dir, "root"), "--runroot", "/run/podman",
				"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file").On(h.machine).Env(env)
			skopeo := berthtest.NewCommand(t, "skopeo", "--registries-conf", conf).On(h.machine)
			pull := func() {
				t.Helper()
				podman.Run("pull", "-q", "docker.io/library/tool:v1")
				if got := podman.Run("image", "inspect", "--format", "{{.RepoDigests}}", "docker.io/library/tool:v1"); !strings.Contains(got, first.Digest.String()) {
					t.Errorf("podman has %s, want %s", got, first.Digest)
				}
				podman.Run("rmi", "--all", "--force")
				back := t.TempDir()
				skopeo.Run("copy", "--all", "docker://docker.io/library/tool:v1", "oci:"+back+":latest")
				sameBlobs(t, source.dir, back)
			}
			pull()
			h.hub.Kill()
			pull()
		})
	}
}
