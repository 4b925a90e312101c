package telemetry_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
)

func TestGauges(t *testing.T) {
	m := telemetry.NewMetrics("v1", func(context.Context) (registry.Stats, error) { return registry.Stats{}, nil })
	var failure error
	m.Gauges("berth_test_bytes", "Bytes by name.", "name", func(context.Context) (map[string]float64, error) {
		return map[string]float64{"team/** ci/*": 5, "bad\xff\"\n": 7}, failure
	})
	h := m.Handler(func(context.Context) error { return nil })
	_, text := scrape(t, h, "/metrics")
	for _, want := range []string{`berth_test_bytes{name="team/** ci/*"} 5`, `berth_test_bytes{name="bad?\"\n"} 7`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	failure = errors.New("no store")
	if status, text := scrape(t, h, "/metrics"); status != http.StatusOK || strings.Contains(text, "berth_test_bytes") || !strings.Contains(text, "berth_build_info") {
		t.Errorf("without values: %d %s", status, text)
	}
}
