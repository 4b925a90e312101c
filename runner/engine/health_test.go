package engine

import (
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func TestHealthIsConcluded(t *testing.T) {
	cfg := &container.HealthConfig{Retries: 2, StartPeriod: time.Minute}
	var h container.Health
	h.Status = container.Starting
	for i, step := range []struct {
		ran    time.Duration
		code   int
		want   container.HealthStatus
		streak int
	}{
		{time.Second, 1, container.Starting, 0}, // it is still to start
		{2 * time.Second, -1, container.Starting, 0},
		{61 * time.Second, 1, container.Starting, 1},
		{62 * time.Second, 0, container.Healthy, 0},
		{63 * time.Second, 1, container.Healthy, 1},
		{64 * time.Second, 2, container.Unhealthy, 2},
		{65 * time.Second, 2, container.Unhealthy, 3},
		{66 * time.Second, 0, container.Healthy, 0},
		{30 * time.Second, 1, container.Healthy, 1}, // once healthy, it has started
	} {
		before := len(h.Log)
		next := conclude(h, cfg, step.ran, &container.HealthcheckResult{ExitCode: step.code})
		if next.Status != step.want || next.FailingStreak != step.streak {
			t.Fatalf("step %d: %s after %d failures, want %s after %d", i, next.Status, next.FailingStreak, step.want, step.streak)
		}
		if len(h.Log) != before || len(next.Log) > probesKept {
			t.Fatalf("step %d: the log before has %d results, and then %d", i, len(h.Log), len(next.Log))
		}
		h = next
	}
}

func TestNextProbe(t *testing.T) {
	cfg := &container.HealthConfig{Interval: time.Minute, StartPeriod: 3 * time.Minute, StartInterval: time.Second}
	for _, tt := range []struct {
		ran    time.Duration
		status container.HealthStatus
		want   time.Duration
	}{
		{0, container.Starting, time.Second},
		{0, container.Healthy, time.Minute},
		{170 * time.Second, container.Healthy, 10 * time.Second},
		{3 * time.Minute, container.Starting, time.Minute},
	} {
		if got := nextProbe(cfg, tt.ran, tt.status); got != tt.want {
			t.Errorf("after %v, %s: %v, want %v", tt.ran, tt.status, got, tt.want)
		}
	}
	if got := nextProbe(&container.HealthConfig{}, 0, container.Starting); got != probeInterval {
		t.Errorf("by default: %v", got)
	}
}

func TestFamily(t *testing.T) {
	cmd := osexec.Command("sh", "-c", "(sleep 60 & sleep 60; :) & echo up; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer killFamily(cmd.Process.Pid)
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(family(cmd.Process.Pid)) != 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the family is %v", family(cmd.Process.Pid))
		}
	}
	if family(0) != nil {
		t.Error("nobody has a family")
	}
}

func TestFirstBytes(t *testing.T) {
	var b firstBytes
	for range 3 {
		if n, err := b.Write([]byte(strings.Repeat("x", 2000))); n != 2000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if s := b.String(); len(s) != probeOutput+len("...") {
		t.Errorf("%d bytes are kept", len(s))
	}
}
