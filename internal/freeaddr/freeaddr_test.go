package freeaddr

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
)

// TestClaim claims all ports of a few, one of which has a listener: each is given once,
// until it is let go.
func TestClaim(t *testing.T) {
	const first = lowest + ports // nobody else's: neither of Claim's ports nor of the kernel's
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+3)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	release := map[string]func() error{}
	for range 8 {
		addr, let, err := claim(first, 8)
		if errors.Is(err, errAllTaken) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if release[addr] != nil || addr == l.Addr().String() {
			t.Fatalf("%s is given though it is taken", addr)
		}
		release[addr] = let
	}
	if len(release) != 7 {
		t.Fatalf("%d of 8 addresses given, of which one is taken", len(release))
	}
	for addr, let := range release {
		if err := let(); err != nil {
			t.Fatal(err)
		}
		again, let, err := claim(first, 8)
		if err != nil || again != addr {
			t.Fatalf("%s was let go: got %s, %v", addr, again, err)
		}
		t.Cleanup(func() { _ = let() })
	}
}

// TestFor takes as many addresses as a run of all tests does.
func TestFor(t *testing.T) {
	var all []string
	for range 500 {
		all = append(all, For(t))
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 500 {
		t.Errorf("%d of 500 addresses differ", n)
	}
}
