package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What connections from another host come by.
const (
	nameOther = "another port of docker run"
	namePort  = "one port of docker run"
	namePorts = "two ports of docker run"
	nameOne   = "one replica"
	nameTwo   = "two replicas"
)

// loadClients are the clients of the other host.
const loadClients = 4

// switched measures what the switch costs the data path: the same server in a
// container whose port is published by docker run, or in two of them, and in stacks of
// one and of two replicas that were deployed over a version before. The clients are on
// a host of their own beside it.
func switched(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startShopEngines(ctx, nameRunner)
	if err != nil {
		return nil, err
	}
	e := engines[0]
	one, two := shop{"one", 7001, "v1", 1, 0}, shop{"two", 7002, "v1", 2, 0}
	for _, s := range []shop{one, two} {
		for _, s.version = range []string{"v1", "v2"} {
			if err := b.deploy(ctx, e, s); err != nil {
				return nil, err
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var direct []int
	for i := range 2 {
		d := shop{port: 7003 + i, version: "direct"}
		if err := runQuietly(e.command(ctx, "run", "--detach", "--publish", fmt.Sprint(d.port, ":", exchangePort), "--volume", "/usr:/usr:ro", "--volume", self+":/bench:ro",
			b.images.tools(), "/bench", helperServeName, d.version)); err != nil {
			return nil, err
		}
		if err := d.awaitVersion(ctx, d.version); err != nil {
			return nil, err
		}
		direct = append(direct, d.port)
	}
	if err := errors.Join(one.awaitVersion(ctx, "v2"), two.awaitVersion(ctx, "v2"), e.awaitRest(ctx, one.name), e.awaitRest(ctx, two.name)); err != nil {
		return nil, err
	}
	pid, err := plainHost("sleep", "infinity")
	if err != nil {
		return nil, err
	}
	places := []place{{nameOther, direct[1:]}, {namePort, direct[:1]}, {nameOne, []int{one.port}}, {namePort, direct[:1]}, {nameTwo, []int{two.port}}, {namePorts, direct}}
	streams, err := b.loadPlaces(ctx, pid, loadStreams, "MB/s", places)
	if err != nil {
		return nil, err
	}
	connections, err := b.loadPlaces(ctx, pid, loadConnect, "connections/s", places)
	return []*figure{streams, connections}, err
}

// place is one or more ports of this host, of which each connection goes to any.
type place struct {
	name  string
	ports []int
}

// loadPlaces compares each of the places with the one that follows it, in pairs, under
// a load from the network namespace of a process.
func (b *bench) loadPlaces(ctx context.Context, pid int, load, unit string, places []place) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("%s, %s from another host", map[string]string{
		loadStreams: "TCP throughput", loadConnect: "new connections, an answer each",
	}[load], plural(loadClients, "client")), Unit: unit}
	for pair := range slices.Chunk(places, 2) {
		var measures []func() (float64, error)
		for _, p := range pair {
			measure := func() (float64, error) { return loadFrom(ctx, pid, load, p.ports, b.glance/2) }
			if _, err := measure(); err != nil { // warms up
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			measures = append(measures, measure)
		}
		var ratios []float64
		for run := range b.runs {
			progress("  %s, run %d of %d:", f.Name, run+1, b.runs)
			found, ratio, err := b.neighbours(measures[0], measures[1])
			if err := errors.Join(err, ctx.Err()); err != nil {
				return nil, err
			}
			for i, p := range pair {
				progress(" %s %s", p.name, format(found[i]))
				f.add(p.name, found[i])
			}
			progress(" %s, ratio %s\n", f.Unit, format(ratio))
			ratios = append(ratios, ratio)
		}
		goal := atLeast(0.97)
		if pair[0].name == nameOther {
			goal = bound{} // this is how exactly it can be measured here
		}
		f.judge(pair[0].name, pair[1].name, goal, ratios)
	}
	return f, nil
}

// neighbours has two measurements follow each other many times, each of them first
// every other time, and returns the median of each, and of the ratios of neighbours:
// what disturbs the machine for longer than a turn disturbs both.
func (b *bench) neighbours(measures ...func() (float64, error)) (found []float64, ratio float64, err error) {
	values, ratios := make([][]float64, 2), []float64(nil)
	for n := range b.neighbour {
		var pair [2]float64
		for i := range pair {
			i = (i + n) % 2
			if pair[i], err = measures[i](); err != nil {
				return nil, 0, err
			}
			values[i] = append(values[i], pair[i])
		}
		ratios = append(ratios, pair[0]/pair[1])
	}
	for _, v := range values {
		found = append(found, summarize(v).Median)
	}
	return found, summarize(ratios).Median, nil
}

// loadFrom returns the rate of a load from the network namespace of a process.
func loadFrom(ctx context.Context, pid int, load string, ports []int, window time.Duration) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var addrs []string
	for _, port := range ports {
		addrs = append(addrs, fmt.Sprint(plainHere, ":", port))
	}
	out, err := output(exec.CommandContext(ctx, "nsenter", fmt.Sprint("--net=/proc/", pid, "/ns/net"), self,
		helperExchangeLoad, load, strings.Join(addrs, ","), strconv.Itoa(loadClients), window.String()))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(out), 64)
}
