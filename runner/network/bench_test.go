package network

import (
	"testing"
)

// The life of a container's network: namespace, Connect, Disconnect.
func BenchmarkConnect(b *testing.B) {
	for name, asked := range map[string][]string{"none": nil, "port": {"8080>80/tcp"}} {
		b.Run("ports="+name, func(b *testing.B) {
			newWorld(b)
			m := openManager(b, Options{})
			for b.Loop() {
				ns, err := NewNetNS()
				must(b, err)
				req := askFor("c", ns, ports(b, asked...))
				_, err = m.Connect(b.Context(), req)
				must(b, err)
				must(b, m.Disconnect(b.Context(), req.ContainerID))
				must(b, ns.Close())
			}
		})
	}
}
