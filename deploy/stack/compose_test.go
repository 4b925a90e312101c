package stack

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestCompose has docker compose create what archives of testdata ask for, and
// compares what it asks of the engine with the stack.
func TestCompose(t *testing.T) {
	t.Parallel()
	compose := berthtest.Tool(t, "docker-compose")
	for _, name := range []string{"everything", "volumes", "networks", "merged"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile("testdata/" + name + ".txtar")
			if err != nil {
				t.Fatal(err)
			}
			c := unpack(t, a)
			l, err := c.load(t)
			if err != nil {
				t.Fatal(err)
			}
			asked := c.create(t, compose)
			c.compare(t, l, asked)
			// What was resolved is a Compose file that means the same.
			if err := os.WriteFile(filepath.Join(c.dir, "resolved.yaml"), []byte(l.Stack.Source), 0o600); err != nil {
				t.Fatal(err)
			}
			c.options = Options{Files: []string{filepath.Join(c.dir, "resolved.yaml")}}
			c.compare(t, l, c.create(t, compose))
			if len(asked.networks) > len(l.Stack.Networks) || len(asked.volumes) > len(l.Stack.Volumes) {
				t.Errorf("docker compose makes networks and volumes that the stack has not: %v %v", asked.networks, asked.volumes)
			}
			for _, n := range l.Stack.Networks {
				if want, ok := asked.networks[n.Name]; ok != !n.External || (ok && compact(t, want) != compact(t, n.Request)) {
					t.Errorf("the network is\n%s\nand not\n%s", compact(t, n.Request), compact(t, want))
				}
			}
			for _, v := range l.Stack.Volumes {
				if want, ok := asked.volumes[v.Name]; ok != !v.External || (ok && compact(t, want) != compact(t, v.Request)) {
					t.Errorf("the volume is\n%s\nand not\n%s", compact(t, v.Request), compact(t, want))
				}
			}
		})
	}
}

// compare compares the containers of a stack with those that were asked for.
func (c *archive) compare(t *testing.T, l *Loaded, a *asked) {
	t.Helper()
	for _, s := range l.Stack.Services {
		if s.Replicas == 0 {
			continue
		}
		got := s.Container
		h := *got.HostConfig
		h.PortBindings = s.Ports
		got.HostConfig = &h
		want, ok := a.containers[s.Name]
		if !ok {
			t.Errorf("docker compose makes no container of %s", s.Name)
			continue
		}
		same(t, s.Name, normal(t, got), normal(t, want))
	}
}

func same(t *testing.T, name, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var diff []string
	for _, line := range g {
		if !slices.Contains(w, line) {
			diff = append(diff, "+"+line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			diff = append(diff, "-"+line)
		}
	}
	t.Errorf("%s is not what docker compose makes:\n%s", name, strings.Join(diff, "\n"))
}

// normal is a container without what only docker compose or only a deployment adds:
// labels, names that follow from the container's own, and links to the containers of
// services, which are names of these services. Lists of maps have no order.
func normal(t *testing.T, r container.CreateRequest) string {
	t.Helper()
	labels := map[string]string{}
	for key, v := range r.Labels {
		if !strings.HasPrefix(key, "com.docker.compose.") {
			labels[key] = v
		}
	}
	r.Labels = labels
	slices.Sort(r.Env)
	h := *r.HostConfig
	slices.Sort(h.Binds)
	slices.Sort(h.ExtraHosts)
	slices.SortFunc(h.Ulimits, func(a, b *container.Ulimit) int { return strings.Compare(a.Name, b.Name) })
	h.Links = external(h.Links)
	r.HostConfig = &h
	out := map[string]any{}
	data, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if mounts, ok := out["HostConfig"].(map[string]any)["Mounts"].([]any); ok {
		slices.SortFunc(mounts, func(a, b any) int {
			return strings.Compare(a.(map[string]any)["Target"].(string), b.(map[string]any)["Target"].(string))
		})
	}
	if r.NetworkingConfig != nil {
		ends := map[string]any{}
		for name, e := range r.NetworkingConfig.EndpointsConfig {
			e := *e
			e.Links = external(e.Links)
			e.IPAddress, e.IPv6Gateway = network.EndpointSettings{}.IPAddress, network.EndpointSettings{}.IPv6Gateway
			e.Aliases = slices.DeleteFunc(slices.Clone(e.Aliases), func(s string) bool {
				return containerName.MatchString(s) || s == "database" || s == "sql"
			})
			ends[name] = e
		}
		out["NetworkingConfig"] = ends
	}
	out["ExposedPorts"] = fmt.Sprint(r.ExposedPorts)
	out["PortBindings"] = fmt.Sprint(h.PortBindings)
	return compact(t, out)
}

var containerName = regexp.MustCompile(`^[a-z]+-[a-z]+-\d+$`)

// external are the links to containers of others.
func external(links []string) []string {
	return slices.DeleteFunc(slices.Clone(links), func(s string) bool {
		name, _, _ := strings.Cut(s, ":")
		return containerName.MatchString(name)
	})
}

// asked is what docker compose has asked an engine for.
type asked struct {
	mu         sync.Mutex
	containers map[string]container.CreateRequest // by service
	networks   map[string]network.CreateRequest
	volumes    map[string]volume.CreateRequest
}

// create runs docker compose create with an engine that has everything and makes
// nothing: what is asked for need not be on this host.
func (c *archive) create(t *testing.T, compose string) *asked {
	t.Helper()
	a := &asked{containers: map[string]container.CreateRequest{}, networks: map[string]network.CreateRequest{}, volumes: map[string]volume.CreateRequest{}}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	args := []string{}
	for _, f := range c.options.Files {
		args = append(args, "-f", f)
	}
	for _, p := range c.options.Profiles {
		args = append(args, "--profile", p)
	}
	cmd := exec.CommandContext(t.Context(), compose, append(args, "create", "--pull", "never")...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{"DOCKER_HOST=unix://" + socket, "DOCKER_CONFIG=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, c.options.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker compose create: %v\n%s", err, out)
	}
	return a
}

// ServeHTTP answers as an engine that has each image and each network of others.
func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := regexp.MustCompile(`^/v\d+\.\d+`).ReplaceAllString(r.URL.Path, "")
	w.Header().Set("Api-Version", "1.56")
	w.Header().Set("Content-Type", "application/json")
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	switch {
	case at == "/_ping":
	case at == "/version":
		answer(map[string]any{"ApiVersion": "1.56", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64", "Version": "29.8.0"})
	case at == "/info":
		answer(map[string]any{"OSType": "linux"})
	case at == "/containers/create":
		var req container.CreateRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		service := req.Labels["com.docker.compose.service"]
		a.containers[service] = req
		w.WriteHeader(http.StatusCreated)
		answer(map[string]any{"Id": strings.Repeat("a", 60) + fmt.Sprintf("%04d", len(a.containers)), "Warnings": []string{}})
	case at == "/networks/create":
		var req network.CreateRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		req.Labels = onlyFound(req.Labels)
		a.networks[req.Name] = req
		w.WriteHeader(http.StatusCreated)
		answer(map[string]any{"Id": "net-" + req.Name})
	case at == "/volumes/create":
		var req volume.CreateRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		req.Labels = onlyFound(req.Labels)
		a.volumes[req.Name] = req
		w.WriteHeader(http.StatusCreated)
		answer(map[string]any{"Name": req.Name})
	case at == "/containers/json":
		answer([]any{})
	case at == "/networks" && strings.Contains(r.URL.RawQuery, "the-outside"):
		answer([]any{map[string]any{"Name": "the-outside", "Id": "outside"}})
	case at == "/networks":
		answer([]any{})
	case at == "/volumes":
		answer(map[string]any{"Volumes": []any{}})
	case strings.HasPrefix(at, "/volumes/") && !strings.Contains(at, "_") && !strings.Contains(at, "my-"):
		answer(map[string]any{"Name": strings.TrimPrefix(at, "/volumes/")})
	case strings.HasPrefix(at, "/containers/"):
		answer(container.InspectResponse{
			ID: strings.Split(at, "/")[2], Name: "/made", Config: &container.Config{}, State: &container.State{},
			HostConfig: &container.HostConfig{}, NetworkSettings: &container.NetworkSettings{},
		})
	case strings.HasPrefix(at, "/images/"):
		answer(map[string]any{"Id": "sha256:" + strings.Repeat("b", 64), "Os": "linux", "Architecture": "amd64", "Config": map[string]any{}})
	default:
		w.WriteHeader(http.StatusNotFound)
		answer(map[string]any{"message": "no such " + at})
	}
}

// onlyFound leaves of the labels those that Compose finds things by.
func onlyFound(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key, v := range labels {
		if key != "com.docker.compose.version" && key != "com.docker.compose.config-hash" {
			out[key] = v
		}
	}
	return out
}
