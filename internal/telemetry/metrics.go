// Package telemetry tells operators what the registry does: Prometheus metrics,
// the access log, and the handlers of health, metrics and profiles.
//
// It observes through the seams of other packages (registry.ServerOptions,
// wrappers of the storage interfaces) and changes nothing of what it observes.
package telemetry

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/registry"
)

// Metrics are the registry's Prometheus metrics.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec   // by route, method and status
	duration *prometheus.HistogramVec // seconds, by route
	received *prometheus.CounterVec   // bytes, by route
	sent     *prometheus.CounterVec   // bytes, by route
	store    *prometheus.HistogramVec // seconds, by store and operation
	events   *prometheus.CounterVec   // of the audit, by event and outcome

	mu     sync.RWMutex
	series map[seriesKey]*series
}

// series are the metrics that one kind of request counts in, found once.
type series struct {
	requests, received, sent prometheus.Counter
	duration                 prometheus.Observer
}

type seriesKey struct {
	route, method string
	status        int
}

// NewMetrics makes the metrics of a registry of the given version. stats is
// asked for sums whenever somebody scrapes.
func NewMetrics(version string, stats func(context.Context) (registry.Stats, error)) *Metrics {
	byRoute := []string{"route"}
	m := &Metrics{
		registry: prometheus.NewRegistry(), series: map[seriesKey]*series{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_requests_total", Help: "Requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_http_request_duration_seconds", Help: "Time from a request's header to the end of its answer, by route.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 12),
		}, byRoute),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_received_bytes_total", Help: "Bytes of request bodies, by route.",
		}, byRoute),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_sent_bytes_total", Help: "Bytes of answers' bodies, by route.",
		}, byRoute),
		store: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_store_duration_seconds", Help: "Time of an operation of the blob store or the metadata, by store and operation.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 12),
		}, []string{"store", "operation"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_events_total", Help: "Events of the audit, by event and outcome: logins, refusals, pushes, deletions, changes of accounts.",
		}, []string{"event", "outcome"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_build_info", Help: "1, with the version that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.duration, m.received, m.sent, m.store, m.events, build, newStored(stats),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts a request.
func (m *Metrics) Observe(r registry.Record) {
	c := m.of(seriesKey{r.Route, method(r.Method), r.Status})
	c.requests.Inc()
	c.duration.Observe(r.Duration.Seconds())
	if r.In > 0 {
		c.received.Add(float64(r.In))
	}
	if r.Out > 0 {
		c.sent.Add(float64(r.Out))
	}
}

// Events is a recorder that counts events.
func (m *Metrics) Events() audit.Recorder {
	return audit.Func(func(_ context.Context, e audit.Event) {
		m.events.WithLabelValues(string(e.Kind), string(e.Outcome)).Inc()
	})
}

// Gauge adds a metric whose value is asked for whenever somebody scrapes.
func (m *Metrics) Gauge(name, help string, value func(context.Context) float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		return value(ctx)
	}))
}

func (m *Metrics) of(k seriesKey) *series {
	m.mu.RLock()
	c := m.series[k]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	c = &series{
		requests: m.requests.WithLabelValues(k.route, k.method, strconv.Itoa(k.status)),
		duration: m.duration.WithLabelValues(k.route),
		received: m.received.WithLabelValues(k.route),
		sent:     m.sent.WithLabelValues(k.route),
	}
	m.mu.Lock()
	m.series[k] = c
	m.mu.Unlock()
	return c
}

// method bounds the values of a label: a client can send any method.
func method(s string) string {
	switch s {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
		return s
	}
	return "other"
}

// stored collects what the registry holds.
type stored struct {
	stats  func(context.Context) (registry.Stats, error)
	gauges map[*prometheus.Desc]func(registry.Stats) int64
}

func newStored(stats func(context.Context) (registry.Stats, error)) *stored {
	gauge := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &stored{stats, map[*prometheus.Desc]func(registry.Stats) int64{
		gauge("berth_blobs", "Blobs stored, manifests included."):       func(s registry.Stats) int64 { return s.Blobs },
		gauge("berth_blob_bytes", "Bytes in the blobs stored."):         func(s registry.Stats) int64 { return s.Bytes },
		gauge("berth_manifests", "Manifests in all repositories."):      func(s registry.Stats) int64 { return s.Manifests },
		gauge("berth_repositories", "Repositories with a manifest."):    func(s registry.Stats) int64 { return s.Repos },
		gauge("berth_uploads_open", "Upload sessions that hold bytes."): func(s registry.Stats) int64 { return s.Uploads },
	}}
}

func (s *stored) Describe(ch chan<- *prometheus.Desc) {
	for d := range s.gauges {
		ch <- d
	}
}

// scrapeTimeout is how long a scrape waits for the metadata.
const scrapeTimeout = 5 * time.Second

func (s *stored) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	stats, err := s.stats(ctx)
	for desc, value := range s.gauges {
		if err != nil {
			ch <- prometheus.NewInvalidMetric(desc, err)
			continue
		}
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value(stats)))
	}
}
