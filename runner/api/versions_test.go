package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// fields encodes v, and returns what stands at each of the paths: "-" if nothing
// does.
func fields(t *testing.T, v any, paths ...string) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range paths {
		at := json.RawMessage(b)
		for key := range strings.SplitSeq(path, ".") {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(at, &m); err != nil {
				t.Fatalf("%s in %s: %v", path, b, err)
			}
			var ok bool
			if at, ok = m[key]; !ok {
				at = json.RawMessage("-")
				break
			}
		}
		all = append(all, string(at))
	}
	return strings.Join(all, " ")
}

func TestVersionContainer(t *testing.T) {
	inspect := func() *container.InspectResponse {
		return &container.InspectResponse{
			ID: "0123456789abcdef", Driver: "overlayfs",
			Storage: &storage.Storage{}, Config: &container.Config{Hostname: "h"},
			ImageManifestDescriptor: &ocispec.Descriptor{Size: 1},
			NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
				"bridge": {IPAddress: netip.MustParseAddr("172.17.0.2"), Gateway: netip.MustParseAddr("172.17.0.1"), IPPrefixLen: 16, MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}},
				"mine":   {Aliases: []string{"a"}},
			}},
		}
	}
	for v, want := range map[version]string{
		52: `- - - - - - - - - "h" {} true ["a"]`,
		51: `"172.17.0.2" "172.17.0.1" 16 "02:00:00:00:00:01" "" "" null "overlayfs" null "h" - true ["a"]`,
		44: `"172.17.0.2" "172.17.0.1" 16 "02:00:00:00:00:01" "" "" null "overlayfs" null "h" - false ["a","0123456789ab"]`,
	} {
		c := v.container(inspect())
		got := fields(t, c, "NetworkSettings.IPAddress", "NetworkSettings.Gateway", "NetworkSettings.IPPrefixLen", "NetworkSettings.MacAddress",
			"NetworkSettings.Bridge", "NetworkSettings.GlobalIPv6Address", "NetworkSettings.SecondaryIPAddresses", "GraphDriver.Name", "Config.OnBuild", "Config.Hostname", "Storage")
		manifest := fields(t, c, "ImageManifestDescriptor") != "-"
		got += fmt.Sprintf(" %t ", manifest) + fields(t, c, "NetworkSettings.Networks.mine.Aliases")
		if got != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
	// What the engine does not tell, is not made up.
	if got := fields(t, version(51).container(&container.InspectResponse{}), "Config", "NetworkSettings"); got != strings.Repeat("null ", 2)[:9] {
		t.Error(got)
	}
}

func TestVersionImage(t *testing.T) {
	inspect := func() *image.InspectResponse {
		return &image.InspectResponse{Size: 7, Descriptor: &ocispec.Descriptor{}, Config: &dockerspec.DockerOCIImageConfig{
			ImageConfig: ocispec.ImageConfig{Cmd: []string{"sh"}},
		}}
	}
	paths := []string{
		"RepoTags", "Parent", "Comment", "GraphDriver.Name", "Config.Cmd", "Config.Env", "Config.User", "Config.ExposedPorts",
		"Config.Hostname", "VirtualSize", "ContainerConfig.Image", "Container", "Created",
	}
	for v, want := range map[version]string{
		52: `[] - - - ["sh"] - - - - - - - -`,
		51: `[] "" "" "overlayfs" ["sh"] null "" - - - - - -`,
		49: `[] "" "" "overlayfs" ["sh"] null "" - "" - - - -`,
		44: `[] "" "" "overlayfs" ["sh"] null "" - "" - "" "" -`,
		43: `[] "" "" "overlayfs" ["sh"] null "" - "" 7 "" "" "0001-01-01T00:00:00Z"`,
	} {
		if got := fields(t, v.image(inspect()), paths...); got != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[version]string{
		51: `[] [] - 3`,
		50: `[] [] - -1`,
		43: `[] [] 7 -1`,
		42: `["<none>:<none>"] ["<none>@<none>"] 7 -1`,
	} {
		list := v.imageList([]image.Summary{{Size: 7, Containers: 3}})
		b, err := json.Marshal(list[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := fields(t, json.RawMessage(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(b))), "RepoTags", "RepoDigests", "VirtualSize", "Containers"); strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(got) != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
}

func TestVersionInfo(t *testing.T) {
	for v, want := range map[version]string{
		51: `"c" - - {"Driver":"nftables"} ["name=seccomp,profile=builtin"]`,
		49: `"c" - false {"Driver":"nftables"} ["name=seccomp,profile=builtin"]`,
		48: `"c" "c" false - ["name=seccomp,profile=builtin"]`,
		24: `"c" "c" false - ["seccomp"]`,
	} {
		got := fields(t, v.info(&system.Info{
			RuncCommit: system.Commit{ID: "c"}, FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
			SecurityOptions: []string{"name=seccomp,profile=builtin"},
		}), "RuncCommit.ID", "RuncCommit.Expected", "BridgeNfIp6tables", "FirewallBackend", "SecurityOptions")
		if got != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
}

func TestVersionCreate(t *testing.T) {
	for _, c := range []struct {
		v          version
		body, path string
		want       string // the value, or the error
	}{
		{51, `{"Image":"x"}`, "HostConfig.NetworkMode", `"bridge"`},
		{51, `{"Image":"x","HostConfig":{"NetworkMode":"default"},"NetworkingConfig":{"EndpointsConfig":{"default":{"Aliases":["a"]}}}}`, "NetworkingConfig.EndpointsConfig.bridge.Aliases", `["a"]`},
		{51, `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"default":null}}}`, "NetworkingConfig.EndpointsConfig.bridge.Links", `null`},
		{51, `{"Image":"x","HostConfig":{"NetworkMode":"host"}}`, "HostConfig.NetworkMode", `"host"`},
		{51, `{"Image":"x","Cmd":"a b"}`, "Cmd", `["a b"]`},
		{51, `{"Image":"x","Cmd":["a","b"],"Entrypoint":null}`, "Cmd", `["a","b"]`},
		{51, `{"Cmd":["a"]}`, "Cmd", `["a"]`},
		{51, `{"Image":"x","HostConfig":{"MemorySwappiness":-1,"PidsLimit":0}}`, "HostConfig.MemorySwappiness", `null`},
		{51, `{"Image":"x","HostConfig":{"PidsLimit":-1}}`, "HostConfig.PidsLimit", `null`},
		{51, `{"Image":"x","HostConfig":{"PidsLimit":5}}`, "HostConfig.PidsLimit", `5`},
		{51, `{"Image":"x","HostConfig":{"PortBindings":{"80/tcp":[]}}}`, "HostConfig.PortBindings.80/tcp", `[{"HostIp":"","HostPort":""}]`},
		{51, `{"Image":"x","HostConfig":{"ConsoleSize":[3,4]}}`, "HostConfig.ConsoleSize", `[3,4]`},
		{41, `{"Image":"x","HostConfig":{"ConsoleSize":[3,4]}}`, "HostConfig.ConsoleSize", `[0,0]`},
		{24, `{"Image":"x","HostConfig":{"AutoRemove":true}}`, "HostConfig.AutoRemove", `false`},
		{25, `{"Image":"x","HostConfig":{"AutoRemove":true}}`, "HostConfig.AutoRemove", `true`},
		{39, `{"Image":"x"}`, "HostConfig.IpcMode", `"shareable"`},
		{40, `{"Image":"x"}`, "HostConfig.CgroupnsMode", `"host"`},
		{42, `{"Image":"x","HostConfig":{"Annotations":{"a":"b"}}}`, "HostConfig.Annotations", `-`},
		{52, `{"Image":"x","MacAddress":"02:00:00:00:00:01"}`, "NetworkingConfig.EndpointsConfig", `{}`},
		{55, `{"Image":"x","HostConfig":{"Umask":18}}`, "HostConfig.Umask", `-`},
		{56, `{"Image":"x","HostConfig":{"Umask":18}}`, "HostConfig.Umask", `18`},
		{56, `{"Image":"x","HostConfig":{"PortBindings":{"80/tcp":[]}}}`, "HostConfig.PortBindings.80/tcp", `[{"HostIp":"","HostPort":""}]`},
		{51, `{"Image":"x","MacAddress":"02:00:00:00:00:01"}`, "NetworkingConfig.EndpointsConfig.bridge.MacAddress", `"02:00:00:00:00:01"`},
		{43, `{"Image":"x","MacAddress":"02:00:00:00:00:01","NetworkingConfig":{"EndpointsConfig":{"n":{"MacAddress":"02:00:00:00:00:02"}}}}`, "NetworkingConfig.EndpointsConfig.n.MacAddress", `"02:00:00:00:00:01"`},
		{43, `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"n":{"MacAddress":"02:00:00:00:00:02"}}}}`, "NetworkingConfig.EndpointsConfig.n.MacAddress", `""`},
		{51, `{"Image":"x","MacAddress":"02:00:00:00:00:01","HostConfig":{"NetworkMode":"host"}}`, "", "conflicting options: mac-address and the network mode"},
		{51, `{"Image":"x","MacAddress":"02:00:00:00:00:01","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:00:00:00:00:02"}}}}`, "", "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty"},
		{51, `{"Image":"x","MacAddress":"02:00:00:00:00:01","NetworkingConfig":{"EndpointsConfig":{"n":{}}}}`, "", "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"},
		{43, `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`, "", "Container cannot be created with multiple network endpoints: a, b"},
		{51, `{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","VolumeOptions":{}}]}}`, "", `VolumeOptions must not be specified on mount type "bind"`},
		{44, `{"Image":"x","HostConfig":{"Mounts":[{"Type":"volume","VolumeOptions":{"Subpath":"a"}}]}}`, "", "VolumeOptions.Subpath needs API v1.45 or newer"},
		{47, `{"Image":"x","HostConfig":{"Mounts":[{"Type":"image"}]}}`, "", `Mount type "Image" needs API v1.48 or newer`},
		{43, `{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}]}}`, "", "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"},
		{43, `{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","ReadOnly":true}]}}`, "HostConfig.Mounts", `[{"Type":"bind","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true}}]`},
		{51, `{"HostConfig":{}}`, "", "config cannot be empty in order to create a container"},
	} {
		var b createBody
		if err := json.Unmarshal([]byte(c.body), &b); err != nil {
			t.Fatalf("%s: %v", c.body, err)
		}
		req, _, err := c.v.create(&b)
		switch {
		case err != nil && err.Error() != c.want:
			t.Errorf("%s %s: %v, want %s", c.v, c.body, err, c.want)
		case err == nil && c.path == "":
			t.Errorf("%s %s: no error, want %s", c.v, c.body, c.want)
		case err == nil:
			if got := fields(t, req, c.path); got != c.want {
				t.Errorf("%s %s: %s is %s, want %s", c.v, c.body, c.path, got, c.want)
			}
		}
	}
}

// The warning is Docker's own.
func TestVersionEmptyBindings(t *testing.T) {
	for v, want := range map[version]string{
		51: "",
		52: "Following container port(s) have an empty list of port-bindings: 53/udp, 80/tcp. Such bindings will be discarded in a future version.",
	} {
		b := createBody{CreateRequest: container.CreateRequest{Config: &container.Config{Image: "x"}, HostConfig: &container.HostConfig{PortBindings: network.PortMap{
			network.MustParsePort("80/tcp"): nil, network.MustParsePort("53/udp"): {}, network.MustParsePort("9/tcp"): {{HostPort: "9"}},
		}}}}
		if _, warnings, err := v.create(&b); err != nil || strings.Join(warnings, "|") != want {
			t.Errorf("%s: %q, %v; want %q", v, warnings, err, want)
		}
	}
}

func TestVersionEvents(t *testing.T) {
	m := events.Message{Type: events.ContainerEventType, Action: "start", Actor: events.Actor{ID: "i", Attributes: map[string]string{"image": "busybox"}}}
	for v, want := range map[version]string{51: `"start" "i" "busybox" "start"`, 52: `- - - "start"`} {
		if line, ok := v.event(m); !ok || fields(t, line, "status", "id", "from", "Action") != want {
			t.Errorf("%s: %s, want %s", v, fields(t, line, "status", "id", "from", "Action"), want)
		}
	}
	if _, ok := version(45).event(events.Message{Type: events.ImageEventType, Action: events.ActionCreate}); ok {
		t.Error("1.45 has events of images that are created")
	}
}

func TestVersionDiskUsage(t *testing.T) {
	du := runner.DiskUsage{LayersSize: 7, Volumes: []volume.Volume{{Name: "v"}}}
	for _, c := range []struct {
		v       version
		verbose bool
		want    string
	}{
		{51, false, "7 -"}, {51, true, "7 -"}, {52, false, "7 1"}, {52, true, "- 1"}, {53, false, "- 1"}, {53, true, "- 1"},
	} {
		got := fields(t, c.v.diskUsage(du, c.verbose), "LayersSize", "VolumeUsage.TotalCount")
		if got != c.want {
			t.Errorf("%s verbose=%t: %s, want %s", c.v, c.verbose, got, c.want)
		}
	}
}

func TestVersionNetwork(t *testing.T) {
	for v, want := range map[version]bool{51: false, 52: true} {
		n := network.Inspect{Status: &network.Status{}}
		if v.network(&n); (n.Status != nil) != want {
			t.Errorf("%s: %v", v, n.Status)
		}
	}
}

func TestVersionUpdate(t *testing.T) {
	for _, c := range []struct {
		v    version
		body string
		want string
	}{
		{51, `{}`, "null, null"},
		{51, `{"PidsLimit":-1}`, "0, null"},
		{51, `{"PidsLimit":7}`, "7, null"},
		{39, `{"PidsLimit":7}`, "null, null"},
		{54, `{"BlkioDeviceReadBps":[]}`, "null, null"},
		{55, `{"BlkioDeviceReadBps":[]}`, "null, []"},
	} {
		var u container.UpdateConfig
		if err := json.Unmarshal([]byte(c.body), &u); err != nil {
			t.Fatal(err)
		}
		c.v.update(&u)
		if got := fields(t, u, "PidsLimit") + ", " + fields(t, u, "BlkioDeviceReadBps"); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.v, c.body, got, c.want)
		}
	}
}

func TestProgressBar(t *testing.T) {
	for _, c := range []struct {
		p    jsonstream.Progress
		want string
	}{
		{jsonstream.Progress{}, ""},
		{jsonstream.Progress{Current: 1000}, "     1kB"},
		{jsonstream.Progress{Current: 50, Total: 100}, "[=========================>                         ]      50B/100B"},
		{jsonstream.Progress{Current: 200, Total: 100}, "[==================================================>]     200B/100B"},
		{jsonstream.Progress{Current: 1, Total: 2, HideCounts: true}, "[=========================>                         ] "},
		{jsonstream.Progress{Current: 1, Total: 2, Units: "things"}, "[=========================>                         ] 1/2 things"},
		{jsonstream.Progress{Current: -5, Total: 100}, "[>                                                  ]      -5B/100B"},
	} {
		if got := progressBar(&c.p); got != c.want {
			t.Errorf("%+v: %q, want %q", c.p, got, c.want)
		}
	}
}
