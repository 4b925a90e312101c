package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/moby/moby/client"
)

// What stands in for the reaper of testcontainers, whose image comes from Docker
// Hub: it speaks its protocol. A client sends lines of filters by label, each of
// which is acknowledged, and when no client is connected any longer, what the
// filters match is removed.

// patience is how long a client may be away.
const patience = time.Second

func reap(out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", ":8080") // in a container of its own
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "Started") // which is waited for
	filters := map[string]bool{}
	lines, comes, goes := make(chan string), make(chan bool), make(chan bool)
	go accept(l, lines, comes, goes)
	gone := time.NewTimer(time.Minute)
	for clients := 0; ; {
		select {
		case line := <-lines:
			filters[line] = true
		case <-comes:
			clients++
			gone.Stop()
		case <-goes:
			if clients--; clients == 0 {
				gone.Reset(patience)
			}
		case <-gone.C:
			return removeAll(filters)
		}
	}
}

// accept hands on what clients say.
func accept(l net.Listener, lines chan<- string, comes, goes chan<- bool) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		comes <- true
		go func() {
			defer func() { goes <- true }()
			defer conn.Close()
			for in := bufio.NewScanner(conn); in.Scan(); {
				lines <- in.Text()
				if _, err := fmt.Fprintln(conn, "ACK"); err != nil {
					return
				}
			}
		}()
	}
}

// removeAll removes what the filters match.
func removeAll(filters map[string]bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	engine, err := client.New(client.FromEnv) // at /var/run/docker.sock
	if err != nil {
		return err
	}
	defer engine.Close()
	for line := range filters {
		q, err := url.ParseQuery(line)
		if err != nil {
			return err
		}
		f := client.Filters{}
		for key, values := range q {
			f.Add(key, values...)
		}
		if err := remove(ctx, engine, f); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the containers that a filter matches, then the networks, volumes
// and images that it does.
func remove(ctx context.Context, engine *client.Client, f client.Filters) error {
	containers, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
	if err != nil {
		return err
	}
	for _, c := range containers.Items {
		if _, err := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			return err
		}
	}
	if _, err := engine.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: f}); err != nil {
		return err
	}
	if _, err := engine.VolumePrune(ctx, client.VolumePruneOptions{All: true, Filters: f}); err != nil {
		return err
	}
	images, err := engine.ImageList(ctx, client.ImageListOptions{Filters: f})
	if err != nil {
		return err
	}
	for _, i := range images.Items {
		if _, err := engine.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true}); err != nil {
			return err
		}
	}
	return nil
}
