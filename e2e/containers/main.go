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
	"fmt"
	"os"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "containers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: containers IMAGE | reap")
	}
	if args[0] == "reap" {
		return reap()
	}
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
		fmt.Println("ok", step.name)
	}
	return nil
}
