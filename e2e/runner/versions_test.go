package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestVersions asks for the main things in every version of the API, with the
// parameters that Portainer and old clients send.
func TestVersions(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Run("pull", "--quiet", h.image("busybox"))
	h.docker.Run("run", "--detach", "--init", "--name", "box", "--publish", "127.0.0.1::80", "--volume", "kept:/v", h.image("busybox"), "sleep", "infinity")
	t.Cleanup(func() { h.docker.Run("rm", "--force", "--volumes", "box") })
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.Socket())
	}}}
	defer client.CloseIdleConnections()
	for minor := 24; minor <= 56; minor++ {
		p := &plain{t: t, client: client, base: fmt.Sprintf("/v1.%d", minor), minor: minor}
		p.lists(h)
		p.shapes()
		if slices.Contains(changing, minor) {
			p.life(h)
		}
	}
}

// changing are versions from which on something of the life of containers differs.
var changing = []int{24, 25, 30, 34, 40, 41, 42, 44, 48, 51, 52, 56}

// plain is a client of HTTP that speaks one version of the API.
type plain struct {
	t      *testing.T
	client *http.Client
	base   string
	minor  int
}

// ask sends a request and returns the answer, which is to have a status.
func (p *plain) ask(method, path string, body any, status int) (answer string) {
	p.t.Helper()
	var in io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		in = strings.NewReader(string(b))
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, "http://docker"+p.base+path, in)
	if err != nil {
		p.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		p.t.Errorf("%s %s%s: %d, %v, want %d: %.300s", method, p.base, path, resp.StatusCode, err, status, out)
	}
	return string(out)
}

// object is ask for what answers with an object of JSON.
func (p *plain) object(method, path string, body any, status int) map[string]any {
	p.t.Helper()
	var o map[string]any
	text := p.ask(method, path, body, status)
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		p.t.Errorf("%s %s%s: %v in %.300s", method, p.base, path, err, text)
	}
	return o
}

// lists asks for what there is, each of which is to hold something.
func (p *plain) lists(h *host) {
	p.t.Helper()
	name := h.image("busybox")
	filters := func(key, value string) string {
		old := fmt.Sprintf(`{%q:{%q:true}}`, key, value)
		if p.minor%2 == 0 { // older still, and taken by all
			old = fmt.Sprintf(`{%q:[%q]}`, key, value)
		}
		return "?filters=" + url.QueryEscape(old)
	}
	for path, holds := range map[string]string{
		"/_ping": "OK", "/version": `"ApiVersion":"1.56"`, "/info": `"Containers":1`,
		"/containers/json?all=1&limit=0&size=1":     `"/box"`,
		"/containers/json" + filters("name", "box"): `"/box"`,
		"/containers/box/json?size=1":               `"SizeRootFs"`,
		"/containers/box/top?ps_args=aux":           "sleep infinity",
		"/containers/box/stats?stream=false":        `"memory_stats"`,
		"/containers/box/changes":                   "",
		"/containers/box/logs?stdout=1&tail=all":    "",
		"/images/json?all=0":                        name,
		"/images/" + name + "/json":                 `"Architecture"`,
		"/images/" + name + "/history":              `"CreatedBy"`,
		"/networks":                                 `"bridge"`,
		"/networks" + filters("driver", "bridge"):   `"bridge"`,
		"/networks/bridge":                          `"172.17.`,
		"/volumes":                                  `"kept"`,
		"/volumes" + filters("dangling", "false"):   `"kept"`,
		"/volumes/kept":                             `"Mountpoint"`,
		"/events?since=0&until=1":                   "",
	} {
		if got := p.ask(http.MethodGet, path, nil, http.StatusOK); !strings.Contains(got, holds) {
			p.t.Errorf("%s%s has no %s: %.500s", p.base, path, holds, got)
		}
	}
	for path, status := range map[string]int{"/swarm": 503, "/services": 503, "/nodes": 503, "/secrets": 503, "/configs": 503, "/containers/nobody/json": 404, "/nothing": 404} {
		p.ask(http.MethodGet, path, nil, status)
	}
	if p.minor >= 25 {
		p.object(http.MethodGet, "/system/df", nil, http.StatusOK)
	} else {
		p.ask(http.MethodGet, "/system/df", nil, http.StatusNotFound)
	}
}

// shapes checks the fields that come and go.
func (p *plain) shapes() {
	p.t.Helper()
	box := p.object(http.MethodGet, "/containers/box/json", nil, http.StatusOK)
	networks, _ := box["NetworkSettings"].(map[string]any)
	if _, ok := networks["IPAddress"].(string); ok != (p.minor < 52) {
		p.t.Errorf("%s: a container has an address beside its networks: %v, in %v", p.base, ok, networks)
	}
	if _, ok := box["ImageManifestDescriptor"]; ok != (p.minor >= 48) {
		p.t.Errorf("%s: a container's manifest is there: %v", p.base, ok)
	}
	var images []map[string]any
	if err := json.Unmarshal([]byte(p.ask(http.MethodGet, "/images/json", nil, http.StatusOK)), &images); err != nil {
		p.t.Fatal(err)
	}
	if _, ok := images[0]["VirtualSize"]; ok != (p.minor < 44) {
		p.t.Errorf("%s: an image's virtual size is there: %v", p.base, ok)
	}
}

// life makes a container as the version has it, and lets it end.
func (p *plain) life(h *host) {
	p.t.Helper()
	body := map[string]any{
		"Image": h.image("busybox"), "Cmd": []string{"sh", "-c", "echo $W; cat"}, "Env": []string{"W=out"}, "Labels": map[string]string{"v": p.base},
		"OpenStdin": true, "ExposedPorts": map[string]any{"81/tcp": map[string]any{}},
		"HostConfig": map[string]any{"Binds": []string{"kept:/v:ro"}, "PortBindings": map[string]any{"81/tcp": []any{map[string]string{"HostPort": ""}}}, "Memory": 64 << 20, "RestartPolicy": map[string]any{"Name": "no"}},
	}
	if p.minor%3 == 0 { // a string stood for a list of one
		body["Entrypoint"], body["Cmd"] = "sh", []string{"-c", "echo $W; cat"}
	}
	p.object(http.MethodPost, "/containers/create?name=made", body, http.StatusCreated)
	p.ask(http.MethodPost, "/containers/made/start", nil, http.StatusNoContent)
	p.ask(http.MethodPost, "/containers/made/start", nil, http.StatusNotModified)
	x := p.object(http.MethodPost, "/containers/made/exec", map[string]any{"Cmd": []string{"echo", "in"}, "AttachStdout": true}, http.StatusCreated)
	if out := p.ask(http.MethodPost, fmt.Sprintf("/exec/%v/start", x["Id"]), map[string]any{}, http.StatusOK); !strings.HasSuffix(out, "in\n") {
		p.t.Errorf("%s: an exec says %q", p.base, out)
	}
	if code := p.object(http.MethodGet, fmt.Sprintf("/exec/%v/json", x["Id"]), nil, http.StatusOK)["ExitCode"]; code != 0.0 {
		p.t.Errorf("%s: an exec's exit code is %v", p.base, code)
	}
	n := p.object(http.MethodPost, "/networks/create", map[string]any{"Name": "made", "CheckDuplicate": true}, http.StatusCreated)
	p.ask(http.MethodPost, "/networks/made/connect", map[string]any{"Container": "made", "EndpointConfig": map[string]any{"Aliases": []string{"a"}}}, http.StatusOK)
	p.ask(http.MethodPost, fmt.Sprintf("/networks/%v/disconnect", n["Id"]), map[string]any{"Container": "made", "Force": true}, http.StatusOK)
	p.ask(http.MethodDelete, "/networks/made", nil, http.StatusNoContent)
	p.ask(http.MethodPost, "/containers/made/kill?signal=KILL", nil, http.StatusNoContent)
	if code := p.object(http.MethodPost, "/containers/made/wait", nil, http.StatusOK)["StatusCode"]; code != 137.0 {
		p.t.Errorf("%s: the exit code is %v", p.base, code)
	}
	if out := p.ask(http.MethodGet, "/containers/made/logs?stdout=1", nil, http.StatusOK); !strings.HasSuffix(out, "out\n") {
		p.t.Errorf("%s: the log is %q", p.base, out)
	}
	p.ask(http.MethodDelete, "/containers/made?v=1&force=1", nil, http.StatusNoContent)
	v := p.object(http.MethodPost, "/volumes/create", map[string]any{"Name": "made", "Labels": map[string]string{"v": p.base}}, http.StatusCreated)
	if !maps.Equal(v["Labels"].(map[string]any), map[string]any{"v": p.base}) {
		p.t.Errorf("%s: the volume has %v", p.base, v["Labels"])
	}
	p.ask(http.MethodDelete, "/volumes/made", nil, http.StatusNoContent)
}
