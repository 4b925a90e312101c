package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// What connections from another host come by.
const (
	namePublished = "docker run --publish"
	nameOne       = "one replica"
	nameTwo       = "two replicas"
)

// loadClients are the clients of the other host.
const loadClients = 4

// switched measures what the switch costs the data path: the same server in a
// container whose port is published by docker run, and in stacks of one and of two
// replicas that were deployed over a version before. The clients are on a host of
// their own beside it.
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
	direct := shop{port: 7003, version: "direct"}
	if err := runQuietly(e.command(ctx, "run", "--detach", "--publish", fmt.Sprint(direct.port, ":", exchangePort), "--volume", "/usr:/usr:ro", "--volume", self+":/bench:ro",
		b.images.tools(), "/bench", helperServeName, direct.version)); err != nil {
		return nil, err
	}
	if err := errors.Join(one.awaitVersion(ctx, "v2"), two.awaitVersion(ctx, "v2"), direct.awaitVersion(ctx, direct.version),
		e.awaitRest(ctx, one.name), e.awaitRest(ctx, two.name)); err != nil {
		return nil, err
	}
	pid, err := plainHost("sleep", "infinity")
	if err != nil {
		return nil, err
	}
	places := []place{{nameOne, one.port}, {nameTwo, two.port}, {namePublished, direct.port}}
	streams, err := b.loadPlaces(ctx, pid, loadStreams, "MB/s", places)
	if err != nil {
		return nil, err
	}
	connections, err := b.loadPlaces(ctx, pid, loadConnect, "connections/s", places)
	return []*figure{streams, connections}, err
}

// place is a port of this host.
type place struct {
	name string
	port int
}

// loadPlaces compares places under a load from the network namespace of a process.
func (b *bench) loadPlaces(ctx context.Context, pid int, load, unit string, places []place) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("%s, %s from another host", map[string]string{
		loadStreams: "TCP throughput", loadConnect: "new connections, an answer each",
	}[load], plural(loadClients, "client")), Unit: unit}
	var turns []turn
	for _, p := range places {
		measure := func() (float64, error) { return loadFrom(ctx, pid, load, p.port, b.glance) }
		if _, err := measure(); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		turns = append(turns, turn{p.name, nil, measure})
	}
	if err := b.shortTurns(ctx, f, turns...); err != nil {
		return nil, err
	}
	last := len(places) - 1
	for _, p := range places[:last] {
		f.ratio(p.name, places[last].name, atLeast(0.97))
	}
	return f, nil
}

// loadFrom returns the rate of a load from the network namespace of a process.
func loadFrom(ctx context.Context, pid int, load string, port int, window time.Duration) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := output(exec.CommandContext(ctx, "nsenter", fmt.Sprint("--net=/proc/", pid, "/ns/net"), self,
		helperExchangeLoad, load, fmt.Sprint(plainHere, ":", port), strconv.Itoa(loadClients), window.String()))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(out), 64)
}
