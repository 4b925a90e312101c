package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
)

// edgeTimeout is how long the HTTP edge may take to say how it is.
const edgeTimeout = time.Second

// edgeCollector collects what the HTTP edge has done.
type edgeCollector struct {
	edge *edge.Edge

	up, inFlight, requests, seconds *prometheus.Desc
}

// edgeMetrics are the metrics of the HTTP edge, if there is one.
func edgeMetrics(front deploy.Edge) []prometheus.Collector {
	e, ok := front.(*edge.Edge)
	if !ok {
		return nil
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_runner_edge_"+name, help, labels, nil)
	}
	return []prometheus.Collector{&edgeCollector{
		edge:     e,
		up:       desc("up", "1 if the HTTP edge serves, with the version that does.", "version"),
		inFlight: desc("requests_in_flight", "Requests that the HTTP edge serves now, streams and WebSockets included."),
		requests: desc("requests_total", "Requests that the HTTP edge has answered since it began, by the class of their status.", "owner", "service", "status"),
		seconds:  desc("request_seconds_total", "Time that the requests of a service took together, from their headers to the ends of their answers.", "owner", "service"),
	}}
}

// Describe implements prometheus.Collector.
func (c *edgeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.inFlight, c.requests, c.seconds} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *edgeCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), edgeTimeout)
	defer cancel()
	s, err := c.edge.Status(ctx)
	if err != nil {
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 0, "")
		return
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 1, s.Version)
	ch <- prometheus.MustNewConstMetric(c.inFlight, prometheus.GaugeValue, float64(s.Requests))
	for _, svc := range s.Services {
		for status, n := range svc.Answers {
			ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(n), svc.Owner, svc.Service, status)
		}
		ch <- prometheus.MustNewConstMetric(c.seconds, prometheus.CounterValue, svc.Time.Seconds(), svc.Owner, svc.Service)
	}
}
