package telemetry

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauges adds a metric with a value for each of some names, which are its label. The
// values are asked for whenever somebody scrapes; if that fails, there are none.
func (m *Metrics) Gauges(name, help, label string, values func(context.Context) (map[string]float64, error)) {
	m.registry.MustRegister(&labelled{prometheus.NewDesc(name, help, []string{label}, nil), values})
}

// labelled collects the values of a metric.
type labelled struct {
	desc   *prometheus.Desc
	values func(context.Context) (map[string]float64, error)
}

// Describe implements prometheus.Collector.
func (l *labelled) Describe(to chan<- *prometheus.Desc) { to <- l.desc }

// Collect implements prometheus.Collector.
func (l *labelled) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	values, err := l.values(ctx)
	if err != nil {
		return
	}
	for name, value := range values {
		to <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, value, strings.ToValidUTF8(name, "?"))
	}
}
