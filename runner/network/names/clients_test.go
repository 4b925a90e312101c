package names

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/berth-registry/berth/internal/netns"
)

// TestClients has programs of the distribution ask, as they are in containers.
func TestClients(t *testing.T) {
	up := newUpstream(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Qtype != dns.TypeA {
			_ = w.WriteMsg(replyTo(r))
			return
		}
		_ = w.WriteMsg(replyTo(r, "60 IN A 192.0.2.1"))
	})
	w := newWorld(t, newBook("web 10.0.0.2 fd00::2", "v4.only 10.0.0.3"), up.Upstream)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(conf, []byte("nameserver 127.0.0.11\noptions ndots:0\n"), 0o644))
	for _, c := range []struct {
		command string
		want    []string
	}{
		{"getent ahosts web", []string{"10.0.0.2", "fd00::2", "web"}},
		{"getent ahosts v4.only", []string{"10.0.0.3"}},
		{"getent hosts 10.0.0.2", []string{"web.net"}},
		{"getent ahosts example.org", []string{"192.0.2.1"}},
		{"busybox nslookup web", []string{"127.0.0.11", "10.0.0.2", "fd00::2"}},
		{"busybox nslookup example.org", []string{"192.0.2.1"}},
		{"busybox nslookup 10.0.0.2", []string{"web.net"}},
	} {
		var out []byte
		err := netns.Do(w.ns, func() (err error) {
			cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", "mount --bind "+conf+" /etc/resolv.conf && exec "+c.command)
			out, err = cmd.CombinedOutput()
			return err
		})
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: %v, %s, want %s", c.command, err, out, want)
			}
		}
	}
}

// BenchmarkServe is what a start of a container has to wait for.
func BenchmarkServe(b *testing.B) {
	s := Open(Options{Resolver: newBook(), Upstreams: func(string) []Upstream { return nil }})
	defer s.Close()
	for b.Loop() {
		b.StopTimer()
		ns := newNamespace(b)
		b.StartTimer()
		must(b, s.Serve(b.Context(), id, ns))
		b.StopTimer()
		s.Forget(id)
		_ = ns.Close()
		b.StartTimer()
	}
}

func BenchmarkLookup(b *testing.B) {
	w := newWorld(b, newBook("web 10.0.0.2"))
	conn, q := &dns.Conn{Conn: w.dial("udp")}, query("web.", dns.TypeA)
	for b.Loop() {
		if _, _, err := new(dns.Client).ExchangeWithConn(q, conn); err != nil {
			b.Fatal(err)
		}
	}
}
