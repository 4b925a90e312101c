package e2e

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// serveNames answers for names in a network namespace, where Docker does: by UDP, at
// 127.0.0.11. It ends with the test.
func serveNames(t *testing.T, namespace string, names map[string]string) {
	t.Helper()
	conn, err := listenIn(namespace, "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // it is closed
			}
			if answer, err := resolve(buf[:n], names); err == nil {
				_, _ = conn.WriteTo(answer, from) // or who asked is gone
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
}

// listenIn listens in a network namespace, which a thread enters that ends with it.
func listenIn(namespace, addr string) (conn net.PacketConn, err error) {
	f, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	done := make(chan struct{})
	listen := func() {
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = net.ListenPacket("udp4", addr)
		}
		close(done)
	}
	go func() {
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() != os.Getpid() {
			listen()
			return
		}
		// The first thread of a process would not end.
		defer runtime.UnlockOSThread()
		go func() {
			runtime.LockOSThread()
			listen()
		}()
		<-done
	}()
	<-done
	return conn, err
}

// resolve answers a query: with an address of IPv4, if it asks for that.
func resolve(query []byte, names map[string]string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable = true, true
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	for _, q := range m.Questions {
		addr, err := netip.ParseAddr(names[strings.TrimSuffix(q.Name.String(), ".")])
		switch {
		case err != nil:
			m.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 600},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			})
		}
	}
	return m.Pack()
}
