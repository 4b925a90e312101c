package network

import (
	"fmt"
	"testing"

	"golang.org/x/sync/semaphore"
)

// The life of a container's network: namespace, Connect, Disconnect.
func BenchmarkConnect(b *testing.B) {
	for name, asked := range map[string][]string{"none": nil, "one": {">80/tcp"}} {
		for _, clients := range []int{1, 8} {
			b.Run(fmt.Sprintf("ports=%s/clients=%d", name, clients), func(b *testing.B) {
				newWorld(b)
				m := openManager(b, Options{})
				limit := semaphore.NewWeighted(int64(clients))
				b.SetParallelism(clients)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						must(b, limit.Acquire(b.Context(), 1))
						life(b, m, asked)
						limit.Release(1)
					}
				})
			})
		}
	}
}

func life(b *testing.B, m *Manager, asked []string) {
	b.Helper()
	ns, err := NewNetNS()
	must(b, err)
	req := askFor("c", ns, ports(b, asked...))
	_, err = m.Connect(b.Context(), req)
	must(b, err)
	must(b, m.Disconnect(b.Context(), req.ContainerID))
	must(b, ns.Close())
}

// What one container more costs where a thousand ports are published.
func BenchmarkConnectBesideMany(b *testing.B) {
	newWorld(b)
	m := openManager(b, Options{})
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("%d>%d/tcp", 20000+i, 1000+i)
	}
	connect(b, m, "many", ports(b, many...))
	for b.Loop() {
		life(b, m, []string{"8080>80/tcp"})
	}
}
