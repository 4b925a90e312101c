// Package freeaddr finds addresses for the servers that tests and benchmarks start:
// programs that must be told where to listen before they run.
//
// An address is nobody else's until it is let go, also while its server does not
// listen yet or is restarted, and whichever process of this machine asks. It does not
// keep a program from listening there that has not asked here.
package freeaddr

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The ports are below those that the kernel gives to connections (from 32768, see
// ip_local_port_range in ip(7)), so that none takes one between a server's end and its
// restart.
const (
	lowest = 15000
	ports  = 15000
)

// For returns a loopback address, host:port, that nobody listens on, for a test until
// it ends.
func For(tb testing.TB) string {
	tb.Helper()
	addr, release, err := Claim()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = release() })
	return addr
}

// Claim returns a loopback address, host:port, that nobody listens on, until release or
// the end of this process.
func Claim() (addr string, release func() error, err error) {
	return claim(lowest, ports)
}

// claim returns an address with a port of n from first, beginning anywhere.
func claim(first, n int) (addr string, release func() error, err error) {
	start := rand.IntN(n)
	for i := range n {
		port := strconv.Itoa(first + (start+i)%n)
		// A name that is bound in the abstract namespace goes with its process, however
		// that ends, and is a matter of a network namespace, as ports are (unix(7),
		// network_namespaces(7)).
		held, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@berth-port-" + port})
		if err != nil {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", port)
		l, err := net.Listen("tcp", addr)
		if err == nil {
			err = l.Close()
		}
		if err == nil {
			return addr, held.Close, nil
		}
		if err := held.Close(); err != nil {
			return "", nil, err
		}
	}
	return "", nil, fmt.Errorf("ports %d to %d of 127.0.0.1: %w", first, first+n-1, errAllTaken)
}

var errAllTaken = errors.New("all are taken")
