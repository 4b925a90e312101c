package spec

import (
	"strings"
	"syscall"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMergeImageCommand(t *testing.T) {
	type words = []string
	for _, c := range []struct {
		entry, cmd, imgEntry, imgCmd words
		want                         string
	}{
		{nil, nil, words{"e"}, words{"c"}, "e c"},
		{nil, words{"x"}, words{"e"}, words{"c"}, "e x"},
		{words{"x"}, nil, words{"e"}, words{"c"}, "x"},
		{words{"x", "y"}, words{"z"}, words{"e"}, words{"c"}, "x y z"},
		{words{""}, words{"z"}, words{"e"}, words{"c"}, "z"},
		{words{}, nil, words{"e"}, words{"c"}, "c"},
		{words{""}, nil, words{"e"}, words{"c"}, "no command specified"},
		{nil, nil, nil, nil, "no command specified"},
		{nil, words{""}, nil, nil, ""},
	} {
		img := dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Entrypoint: c.imgEntry, Cmd: c.imgCmd}}
		_, path, args, err := MergeImage(&container.Config{Entrypoint: c.entry, Cmd: c.cmd}, img)
		got := strings.Join(append(words{path}, args...), " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q %q over %q %q: %q, want %q", c.entry, c.cmd, c.imgEntry, c.imgCmd, got, c.want)
		}
	}
}

func TestMergeImage(t *testing.T) {
	img := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: "u", WorkingDir: "/w", StopSignal: "INT", Cmd: []string{"c"}, Env: []string{"A=img", "B=img"},
			Labels: map[string]string{"a": "img", "b": "img"}, Volumes: map[string]struct{}{"/v": {}}, ExposedPorts: map[string]struct{}{"80": {}},
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{
			Healthcheck: &container.HealthConfig{Test: []string{"CMD", "x"}, Retries: 3}, Shell: []string{"sh"},
		},
	}
	cfg := container.Config{
		Env: []string{"A=own"}, Labels: map[string]string{"a": "own"}, ExposedPorts: network.PortSet{network.MustParsePort("53/udp"): {}},
		Healthcheck: &container.HealthConfig{Retries: 5},
	}
	c, _, _, err := MergeImage(&cfg, img)
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, c.Env, `["A=own","B=img"]`)
	checkJSON(t, c.Labels, `{"a":"own","b":"img"}`)
	checkJSON(t, c.ExposedPorts, `{"53/udp":{},"80/tcp":{}}`)
	checkJSON(t, c.Healthcheck, `{"Test":["CMD","x"],"Retries":5}`)
	if c.User != "u" || c.WorkingDir != "/w" || c.StopSignal != "INT" || StopSignal(c) != syscall.SIGINT || len(c.Volumes) != 1 || c.Shell[0] != "sh" {
		t.Errorf("merged: %+v", c)
	}
	if len(cfg.Env) != 1 || len(cfg.Labels) != 1 || len(cfg.ExposedPorts) != 1 || cfg.User != "" || len(img.Labels) != 2 {
		t.Error("MergeImage changes what it is given")
	}
	img.ExposedPorts = map[string]struct{}{"x": {}}
	if _, _, _, err := MergeImage(&cfg, img); err == nil {
		t.Error("an image that exposes nonsense is accepted")
	}
}

func TestSignals(t *testing.T) {
	if s := StopSignal(&container.Config{}); s != syscall.SIGTERM {
		t.Errorf("StopSignal = %v", s)
	}
	for in, want := range map[string]syscall.Signal{"KILL": 9, "SIGKILL": 9, "9": 9, "usr1": 10, "RTMIN+1": 35} {
		if s, err := ParseSignal(in); err != nil || s != want {
			t.Errorf("ParseSignal(%s) = %d, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "NOPE", "0", "1000"} {
		if s, err := ParseSignal(in); err == nil {
			t.Errorf("ParseSignal(%q) = %d", in, s)
		}
	}
}
