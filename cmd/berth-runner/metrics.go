package main

import (
	"context"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// informer tells what an engine has.
type informer interface {
	Info(ctx context.Context) (system.Info, error)
}

// newMetrics makes the handler of Prometheus metrics of an engine, which is asked
// whenever somebody scrapes.
func newMetrics(e informer) http.Handler {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_runner_build_info", Help: "1, with the version that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(build, &inventory{
		engine:     e,
		containers: prometheus.NewDesc("berth_runner_containers", "Containers, by state.", []string{"state"}, nil),
		images:     prometheus.NewDesc("berth_runner_images", "Images on this host.", nil, nil),
	}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r})
}

// inventory collects what an engine has.
type inventory struct {
	engine             informer
	containers, images *prometheus.Desc
}

func (i *inventory) Describe(ch chan<- *prometheus.Desc) {
	ch <- i.containers
	ch <- i.images
}

// scrapeTimeout is how long a scrape waits for the engine.
const scrapeTimeout = 5 * time.Second

func (i *inventory) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	info, err := i.engine.Info(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(i.containers, err)
		return
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(i.containers, info.ContainersRunning, "running")
	gauge(i.containers, info.ContainersPaused, "paused")
	gauge(i.containers, info.ContainersStopped, "stopped")
	gauge(i.images, info.Images)
}
