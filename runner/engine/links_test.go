package engine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

func TestSplitLink(t *testing.T) {
	for in, want := range map[string]string{
		"db":            "db" + " db",
		"db:data":       "db data",
		"/db:/web/data": "db data",
		"":              "",
		"db:":           "",
		":db":           "",
		"db:a:b":        "",
		"db:a b":        "",
		"db:a\nb":       "",
		"db:a=b":        "",
		"db:a/b":        "",
		"db:#":          "",
		"/db:/":         "",
	} {
		name, alias, err := splitLink(in)
		if got := strings.TrimSpace(name + " " + alias); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestLinkEnvironment(t *testing.T) {
	exposed := network.PortSet{}
	for _, p := range []string{"81/tcp", "53/udp", "80/tcp", "443/tcp", "54/udp"} {
		exposed[network.MustParsePort(p)] = struct{}{}
	}
	l := linked{
		alias: "my-db",
		rec:   &runner.Container{Config: &container.Config{ExposedPorts: exposed, Env: []string{"PATH=/bin", "HOME=/", "A=b=c", "NONE"}}},
		state: runner.State{Networks: map[string]*network.EndpointSettings{"bridge": {IPAddress: netip.MustParseAddr("172.17.0.2")}}},
	}
	got := l.environment("web")
	var names []string
	for _, v := range got {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains(names, name) {
			t.Errorf("%s is there twice", name)
		}
		names = append(names, name)
	}
	for _, want := range []string{
		"MY_DB_PORT=tcp://172.17.0.2:80",
		"MY_DB_PORT_80_TCP=tcp://172.17.0.2:80", "MY_DB_PORT_80_TCP_ADDR=172.17.0.2", "MY_DB_PORT_80_TCP_PORT=80", "MY_DB_PORT_80_TCP_PROTO=tcp",
		"MY_DB_PORT_80_TCP_START=tcp://172.17.0.2:80", "MY_DB_PORT_80_TCP_PORT_START=80",
		"MY_DB_PORT_80_TCP_END=tcp://172.17.0.2:81", "MY_DB_PORT_80_TCP_PORT_END=81",
		"MY_DB_PORT_443_TCP=tcp://172.17.0.2:443", "MY_DB_PORT_53_UDP_END=udp://172.17.0.2:54",
		"MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=b=c",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %s in %q", want, got)
		}
	}
	const all = 1 + 5*4 + 2*4 + 2
	if len(got) != all {
		t.Errorf("there are %d variables, want %d: %q", len(got), all, got)
	}
}
