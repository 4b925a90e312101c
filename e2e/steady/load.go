package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// load keeps clients at a server until it is told to end. Each failure is a line
// "failed: ..."; at its end it says how much it has asked.
type load struct {
	pause    time.Duration // of a client between two requests
	requests atomic.Int64
	lines    atomic.Int64
	moved    atomic.Int64 // long-lived connections that the server has ended in order
	failures atomic.Int64
	mu       sync.Mutex // held while a line is written
}

// patience is how long a request may take on a busy machine.
const patience = 20 * time.Second

func runLoad(args []string) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	web, tcp := f.String("http", "", "a URL that is asked for"), f.String("tcp", "", "an address that lines are sent to")
	via := f.String("via", "", "the address to connect to in place of the URL's")
	kept, fresh, long := f.Int("keep", 100, "clients that keep their connection"), f.Int("new", 100, "clients that connect anew each time"), f.Int("long", 20, "connections of lines")
	l := &load{}
	summary := f.String("summary", "", "the file that what was done is written to at the end")
	f.DurationVar(&l.pause, "pause", 100*time.Millisecond, "of each client between two requests")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var clients sync.WaitGroup
	for i := range *kept + *fresh {
		clients.Go(func() { l.ask(ctx, *web, *via, i < *kept) })
	}
	if *tcp != "" {
		for range *long {
			clients.Go(func() { l.converse(ctx, *tcp) })
		}
	}
	l.say("load begins")
	clients.Wait()
	done := fmt.Sprintf("%d requests, %d lines, %d connections ended in order, %d failures\n", l.requests.Load(), l.lines.Load(), l.moved.Load(), l.failures.Load())
	if err := os.WriteFile(*summary, []byte(done), 0o600); err != nil {
		return err
	}
	if n := l.failures.Load(); n > 0 {
		return fmt.Errorf("%d failures", n)
	}
	return nil
}

func (l *load) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (l *load) failed(err error) {
	l.failures.Add(1)
	l.say("failed: %s %v", time.Now().UTC().Format("15:04:05.000"), err)
}

// wait pauses between two requests; false says that the load is to end.
func (l *load) wait(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(l.pause):
		return true
	}
}

// ask is one client over HTTP.
func (l *load) ask(ctx context.Context, url, via string, keep bool) {
	t := &http.Transport{DisableKeepAlives: !keep, MaxIdleConnsPerHost: 1}
	if via != "" {
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, via)
		}
	}
	c := &http.Client{Transport: t, Timeout: patience}
	for l.wait(ctx) {
		// The last one may go on when the load ends.
		if err := get(context.WithoutCancel(ctx), c, url); err != nil {
			l.failed(err)
			continue
		}
		l.requests.Add(1)
	}
}

func get(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %q", url, resp.Status, text)
	}
	return nil
}

// converse keeps one connection of lines, and makes the next when the server says
// bye. Each has one version to its end.
func (l *load) converse(ctx context.Context, addr string) {
	for l.wait(ctx) {
		switch err := l.conversation(ctx, addr); {
		case errors.Is(err, errBye):
			l.moved.Add(1)
		case err != nil:
			l.failed(err)
		}
	}
}

var errBye = errors.New("bye")

func (l *load) conversation(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{Timeout: patience}).DialContext(context.WithoutCancel(ctx), "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	in, version := bufio.NewReader(c), ""
	for l.wait(ctx) {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, "which\n"); err != nil {
			return err
		}
		said, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("after %q of version %q: %w", said, version, err)
		}
		switch said = strings.TrimSpace(said); {
		case said == "bye":
			return errBye
		case version == "":
			version = said
		case said != version:
			return fmt.Errorf("a connection of version %s answers as version %s", version, said)
		}
		l.lines.Add(1)
	}
	return nil
}
