// Command steady is what the tests deploy: it tells its version over HTTP and TCP,
// and ends only when all that it has begun to answer is answered.
//
//	:8080  HTTP: "VERSION\n" for each request; /health is 200, or 503 if it is sick
//	:8081  TCP: "VERSION\n" for each line; "bye\n" before it closes a connection
//
// "steady load" is the clients: see load.
//
// VERSION is from the environment, and so is FAULT: "exit" ends it with 3 at once,
// "sick" lets its health check fail, and "late" lets it serve a second and die then.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	serve := run
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "health":
			serve = health
		case "load":
			serve = func() error { return runLoad(os.Args[2:]) }
		}
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "steady:", err)
		code := 1
		if coded, ok := errors.AsType[ended](err); ok {
			code = int(coded)
		}
		os.Exit(code)
	}
}

// ended is an end with an exit code.
type ended int

func (e ended) Error() string { return "it is broken" }

// health asks the server of this container how it is.
func health() error {
	return get(context.Background(), http.DefaultClient, "http://127.0.0.1:8080/health")
}

func run() error {
	version, fault := os.Getenv("VERSION"), os.Getenv("FAULT")
	fmt.Fprintf(os.Stderr, "version %s begins\n", version)
	late := make(<-chan time.Time)
	switch fault {
	case "exit":
		return ended(3)
	case "late":
		late = time.After(time.Second)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && fault == "sick" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, version+"\n") // the client may have gone
	})}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":8080")
	if err != nil {
		return err
	}
	lines, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":8081")
	if err != nil {
		return err
	}
	go func() { _ = web.Serve(l) }() // ends by Shutdown
	var open sync.WaitGroup
	open.Go(func() { serveLines(ctx, lines, version, &open) })
	select {
	case <-late:
		return ended(4)
	case <-ctx.Done():
	}
	_ = lines.Close()
	open.Wait()
	return web.Shutdown(context.Background())
}

func serveLines(ctx context.Context, l net.Listener, version string, open *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		open.Go(func() { answerLines(ctx, c, version) })
	}
}

// answerLines answers each line, until the client ends or this process is to: then
// the client is told, and what it has sent meanwhile is read so that no reset takes
// the last words from it.
func answerLines(ctx context.Context, c net.Conn, version string) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })()
	for in := bufio.NewReader(c); ; {
		if _, err := in.ReadString('\n'); err != nil {
			break
		}
		if _, err := io.WriteString(c, version+"\n"); err != nil {
			return
		}
	}
	if ctx.Err() == nil {
		return
	}
	_, _ = io.WriteString(c, "bye\n")
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, c)
}
