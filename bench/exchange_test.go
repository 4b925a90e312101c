package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
)

// TestExchange has clients load a server that tells its name, and meet one that is
// gone.
func TestExchange(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{l.Addr().String()}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- answerAll(ctx, l, "v1") }()
	if name, got, err := exchange(t.Context(), addrs[0], 3, func(c *net.TCPConn) error {
		_, err := c.Write([]byte("abc"))
		return err
	}); name != "v1" || got != 3 || err != nil {
		t.Errorf("exchange: %q, %d, %v", name, got, err)
	}
	if n, err := connect(t.Context(), addrs, time.Now().Add(20*time.Millisecond)); n < 1 || err != nil {
		t.Errorf("connect: %v, %v", n, err)
	}
	if n, err := stream(t.Context(), addrs, time.Now().Add(20*time.Millisecond)); n <= 0 || err != nil {
		t.Errorf("stream: %v, %v", n, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the server ends with %v", err)
	}
	clients := startAsking(t.Context(), addrs[0])
	for clients.failed.Load() < loadAskers {
		time.Sleep(time.Millisecond)
	}
	if failed, err := clients.end(); failed < loadAskers || err != nil {
		t.Errorf("clients of a server that is gone: %v, %v", failed, err)
	}
	if _, err := connect(t.Context(), addrs, time.Now().Add(time.Second)); err == nil {
		t.Error("a server that is gone was connected to")
	}
}

func TestParseAnswer(t *testing.T) {
	if name, got, err := parseAnswer("v1 123\n"); name != "v1" || got != 123 || err != nil {
		t.Errorf("parseAnswer: %q, %d, %v", name, got, err)
	}
	for _, line := range []string{"", "\n", "v1", "v1 \n", " 1\n", "v1 -1\n", "v1 1 2\n", "v1 x\n"} {
		if _, _, err := parseAnswer(line); err == nil {
			t.Errorf("parseAnswer(%q) succeeded", line)
		}
	}
}

func TestRests(t *testing.T) {
	status := func(deploying int, list ...deploy.ContainerStatus) deploy.Status {
		return deploy.Status{Revision: 2, Deploying: deploying, Services: []deploy.ServiceStatus{{Containers: list}}}
	}
	old, leaving := deploy.ContainerStatus{State: "exited"}, deploy.ContainerStatus{State: "running"}
	serves, crashed := deploy.ContainerStatus{State: "running", Weight: 1}, deploy.ContainerStatus{State: "exited", Weight: 1}
	for _, tt := range []struct {
		status deploy.Status
		want   bool
	}{
		{status(0, old, serves), true}, {status(3, old, serves), false}, {status(0, leaving, serves), false}, {status(0, crashed), false}, {deploy.Status{}, false},
	} {
		if got := rests(tt.status); got != tt.want {
			t.Errorf("rests(%+v) = %v", tt.status, got)
		}
	}
}
