package build

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/berth-registry/berth/runner"
)

func TestGateway(t *testing.T) {
	gateway := []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd00::1")}
	hosts := []string{"a:10.0.0.1", "up:host-gateway", "six:[fd00::9]", "none"}
	if got := fmt.Sprint(withGateway(hosts, gateway)); got != "[a:10.0.0.1 up:172.17.0.1 up:fd00::1 six:[fd00::9] none]" {
		t.Error(got)
	}
	if got := labelsOf(Options{Gateway: gateway})[gatewayLabel]; got != "172.17.0.1" {
		t.Errorf("buildx is told of %q", got)
	}
	if _, err := frontendAttrs(runner.BuildRequest{ExtraHosts: withGateway(hosts[1:2], nil)}); err == nil {
		t.Error("a host without a gateway has one")
	}
}
