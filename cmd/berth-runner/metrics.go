package main

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berth-registry/berth/runner/engine"
)

// observed tells what an engine has and does.
type observed interface {
	Usage(ctx context.Context) []engine.ContainerUsage
	ImageUsage() (images int, bytes int64)
	EventCounts() map[engine.EventKind]uint64
}

const (
	// scrapeTimeout is how long a scrape may take; what there was no time for is not
	// in it.
	scrapeTimeout = 5 * time.Second
	// scrapes are how many go on at a time: each samples all containers.
	scrapes = 2
)

// metrics are the Prometheus metrics of an engine.
type metrics struct {
	http.Handler

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
}

// newMetrics makes the metrics of an engine, which is asked whenever somebody
// scrapes, and of what else there is.
func newMetrics(e observed, others ...prometheus.Collector) *metrics {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_runner_build_info", Help: "1, with the version that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_runner_http_requests_total", Help: "Requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_runner_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer, by route and method; of streams, how long they went on.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"route", "method"}),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(build, m.requests, m.durations, newInventory(e),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(others...)
	m.Handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{
		Registry: r, MaxRequestsInFlight: scrapes,
		// Names of interfaces are the containers' own: what they do to one metric is
		// not to cost all others.
		ErrorHandling: promhttp.ContinueOnError,
	})
	return m
}

// observe counts a request that was answered.
func (m *metrics) observe(method, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.durations.WithLabelValues(route, method).Observe(took.Seconds())
}

// inventory collects what an engine has, and what its containers use.
type inventory struct {
	engine observed

	containers, health, images, imageBytes, events *prometheus.Desc

	usage usageDescs
}

func newInventory(e observed) *inventory {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_runner_"+name, help, labels, nil)
	}
	return &inventory{
		engine:     e,
		containers: desc("containers", "Containers, by state.", "state"),
		health:     desc("containers_health", "Running containers with a health check, by what it says.", "status"),
		images:     desc("images", "Images on this host."),
		imageBytes: desc("images_bytes", "Bytes of the layers of all images, each counted once."),
		events: desc("events_total", "What has happened, as docker events tells it: pulls and pushes of images, starts, ends and restarts of containers, builds.",
			"type", "action"),
		usage: newUsageDescs(),
	}
}

// Describe implements prometheus.Collector.
func (i *inventory) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{i.containers, i.health, i.images, i.imageBytes, i.events} {
		ch <- d
	}
	i.usage.describe(ch)
}

// Collect implements prometheus.Collector.
func (i *inventory) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	states := map[string]int{"running": 0, "paused": 0, "stopped": 0}
	health := map[container.HealthStatus]int{container.Starting: 0, container.Healthy: 0, container.Unhealthy: 0}
	devices := devices{}
	for _, u := range i.engine.Usage(ctx) {
		switch u.State.Status {
		case container.StateRunning, container.StateRestarting:
			states["running"]++
		case container.StatePaused:
			states["paused"]++
		default:
			states["stopped"]++
		}
		if u.State.Running() && u.Health != container.NoHealthcheck {
			health[u.Health]++
		}
		i.usage.collect(ch, u, devices)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	for state, n := range states {
		gauge(i.containers, float64(n), state)
	}
	for status, n := range health {
		gauge(i.health, float64(n), string(status))
	}
	images, bytes := i.engine.ImageUsage()
	gauge(i.images, float64(images))
	gauge(i.imageBytes, float64(bytes))
	for kind, n := range i.engine.EventCounts() {
		ch <- prometheus.MustNewConstMetric(i.events, prometheus.CounterValue, float64(n), string(kind.Type), kind.Action)
	}
}
