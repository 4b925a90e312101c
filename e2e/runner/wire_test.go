package runner

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestWire has machines reach each other over a wire, as long as they are plugged in.
func TestWire(t *testing.T) {
	t.Parallel()
	wire := berthtest.NewWire(t)
	one, two := berthtest.NewMachine(t, berthtest.MachineOptions{}), berthtest.NewMachine(t, berthtest.MachineOptions{})
	first, second := wire.Plug(one), wire.Plug(two)
	if first == second {
		t.Fatalf("both are %s", first)
	}
	s := berthtest.Start(t, berthtest.Options{Machine: one, Addr: first + ":5000"})
	reach := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		c, err := two.Dial(ctx, "tcp", s.Addr)
		if err != nil {
			return fmt.Errorf("%s does not reach %s: %w", second, s.Addr, err)
		}
		return c.Close()
	}
	for _, change := range []func(){
		func() {},
		func() { wire.Unplug(two); wire.Plug(two) },
		func() { two.Reboot(); wire.Plug(two) },
	} {
		change()
		if err := eventually(reach); err != nil {
			t.Fatal(err)
		}
	}
	wire.Unplug(one)
	if reach() == nil {
		t.Error("an unplugged machine is reached")
	}
}
