package main

import (
	"strings"
	"testing"

	"github.com/berth-registry/berth/internal/runnerconfig"
)

func TestNodeName(t *testing.T) {
	for _, tt := range []struct{ set, data, host, want string }{
		{"", "", "web-1.example.com", "web-1.example.com"},
		{"", "/srv/other", "web-1", "web-1-abc123"},
		{"mine", "/srv/other", "web-1", "mine"},
		{"", "", "(none)", "none-"},
		{"", "", "_a b\n/c", "a-b-c"},
		{"", "", "", "node"},
		{"", "/srv/other", strings.Repeat("x", 300), strings.Repeat("x", 200) + "-abc123"},
	} {
		cfg := runnerconfig.Default()
		cfg.Report.Name = tt.set
		if tt.data != "" {
			cfg.Data = tt.data
		}
		if got := nodeName(cfg, tt.host, "abc123"); got != tt.want {
			t.Errorf("nodeName(%+v) = %q", tt, got)
		}
	}
}
