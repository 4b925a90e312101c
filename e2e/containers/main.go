// Command containers does with a container engine what the documentation of
// testcontainers-go does: containers with all kinds of waiting, networks, mounts,
// files and logs. The engine is where DOCKER_HOST says.
//
//	containers IMAGE    an image of busybox; prints a line for each thing done
//	containers reap     what removes it all when the program has ended; see reap.go
//
// It promises nothing about what it leaves: what the reaper is for, it leaves to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "containers:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: containers IMAGE | reap")
	}
	if args[0] == "reap" {
		return reap(out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	t := &trial{image: args[0]}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"waiting", t.waiting},
		{"network", t.network},
		{"files", t.files},
		{"logs", t.logs},
		{"build", t.build},
		{"again", t.again},
		{"left to the reaper", t.leave},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintln(out, "ok", step.name)
	}
	return nil
}
