package names

import (
	"fmt"
	"runtime"
	"testing"
)

// TestIdleCost serves many containers that ask nothing.
func TestIdleCost(t *testing.T) {
	const containers = 100
	s := Open(Options{Resolver: newBook(), Upstreams: func(string) []Upstream { return nil }})
	defer s.Close()
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	must(t, s.Serve(t.Context(), "first", newNamespace(t)))
	goroutines, before := runtime.NumGoroutine(), used()
	for i := range containers {
		must(t, s.Serve(t.Context(), fmt.Sprint(i), newNamespace(t)))
	}
	if n := runtime.NumGoroutine() - goroutines; n > 2*containers {
		t.Errorf("%d goroutines for %d containers", n, containers)
	}
	const most = 32 << 10 // bytes; it is about 14 KiB
	if each := (int64(used()) - int64(before)) / containers; each > most {
		t.Errorf("a container costs %d bytes, want at most %d", each, most)
	} else {
		t.Logf("a container costs %d bytes", each)
	}
}
