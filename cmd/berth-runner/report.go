package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner/engine"
	"github.com/berth-registry/berth/runner/report"
)

// startReports tells the registries that are to know what runs, until it is stopped.
func startReports(ctx context.Context, cfg runnerconfig.Config, e *engine.Engine, log *slog.Logger) (stop func(), err error) {
	o := report.Options{Interval: cfg.Report.Interval, Log: log}
	for _, host := range slices.Sorted(maps.Keys(cfg.Registries)) {
		if h := cfg.Registries[host]; h.Report {
			o.Registries = append(o.Registries, report.Registry{Host: host, Username: h.Username, PasswordFile: h.PasswordFile})
		}
	}
	if len(o.Registries) == 0 {
		return func() {}, nil
	}
	if o.Node, err = nodeOf(ctx, cfg, e); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { report.New(e, o).Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}, nil
}

// nodeOf is the name that this node has at registries.
func nodeOf(ctx context.Context, cfg runnerconfig.Config, e *engine.Engine) (string, error) {
	info, err := e.Info(ctx)
	if err != nil {
		return "", err
	}
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return nodeName(cfg, name, info.ID), nil
}

// noName matches what no name of a node can have in it.
var noName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// nodeName is the name that this node has in reports. Two runners on a host have two:
// each would take back what the other reports.
func nodeName(cfg runnerconfig.Config, host, instance string) string {
	if cfg.Report.Name != "" {
		return cfg.Report.Name
	}
	const most = 200 // of the 253 that a name may have
	name := strings.TrimLeft(noName.ReplaceAllString(host, "-"), "._-")
	name = name[:min(len(name), most)]
	if name == "" {
		name = "node"
	}
	if cfg.Data != runnerconfig.Default().Data {
		name += "-" + instance
	}
	return name
}
