package rounds_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/internal/rounds"
)

// TestFresh has nobody get the result of a round that began before they came, and
// everybody share one.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, running atomic.Int64
		r := rounds.New(func(context.Context) error {
			if running.Add(1) > 1 {
				t.Error("two at a time")
			}
			calls.Add(1)
			time.Sleep(300 * time.Millisecond)
			running.Add(-1)
			return nil
		}, time.Second, time.Minute)
		var all sync.WaitGroup
		for i := range 300 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				came, before := time.Now(), calls.Load()
				if err := r.Join(t.Context()); err != nil {
					t.Error(err)
				}
				if calls.Load() == before || time.Since(came) > 1300*time.Millisecond {
					t.Errorf("after %v and %d calls", time.Since(came), calls.Load()-before)
				}
			})
		}
		all.Wait()
		if n := calls.Load(); n < 3 || n > 5 {
			t.Errorf("%d calls in three seconds", n)
		}
	})
}

// TestFails tells of failures, and does not wait for longer than whoever joins.
func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		r := rounds.New(func(context.Context) error { return broken }, time.Second, time.Minute)
		if err := r.Join(t.Context()); !errors.Is(err, broken) {
			t.Error(err)
		}
		hangs := rounds.New(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}, time.Second, time.Minute)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := hangs.Join(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := hangs.Join(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 3*time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}
