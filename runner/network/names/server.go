package names

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Address is where the server answers in each container, at port 53.
func Address() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// Resolver knows the names of containers. What a container may learn depends on
// the networks that it is on. All methods are called for each query, and
// concurrently.
type Resolver interface {
	// Lookup returns what a name means, which is in lower case and without a final
	// dot. A name can be found and have no address.
	Lookup(containerID, name string) (a Answer, found bool)
	// Reverse returns the name that an address has.
	Reverse(containerID string, addr netip.Addr) (name string, found bool)
	// External says whether the container reaches what is outside its networks.
	External(containerID string) bool
}

// Answer is what a name means.
type Answer struct {
	V4, V6 []netip.Addr
	// Moves says that the name is that of a service, which means other containers from
	// one moment to the next: nobody should keep the answer.
	Moves bool
}

// Upstream is a server that is asked for what the Resolver does not know.
type Upstream struct {
	Addr netip.AddrPort
	// Inside says that it is reached from the container, as one that the
	// container's options name; otherwise it is reached from the host.
	Inside bool
}

// Options say what a Server answers with. Resolver and Upstreams are required.
type Options struct {
	Resolver Resolver
	// Upstreams returns the servers to ask for a container, in that order. It is
	// called for each query.
	Upstreams func(containerID string) []Upstream
	Log       *slog.Logger
}

const (
	// maxForwards is how many queries of all containers are at upstreams at a
	// time: each takes a file descriptor.
	maxForwards = 8192
	// maxDials is how many TCP connections are begun inside of containers at a
	// time: each takes a thread.
	maxDials = 32
)

// Server answers the queries of containers. It is safe for concurrent use; the
// calls for one container must follow one another.
type Server struct {
	Options
	forwards chan struct{} // has an element for each query at an upstream
	dials    chan struct{} // has an element for each connection that is begun

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener // by the container's ID
}

// Open returns a server that serves nobody yet.
func Open(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		Options:   o,
		forwards:  make(chan struct{}, maxForwards),
		dials:     make(chan struct{}, maxDials),
		listeners: map[string]*listener{},
	}
}

// Serve answers queries from a container's network namespace until Forget. To be
// called again for the same namespace changes nothing; for another, the former is
// forgotten. The namespace is held until Forget, the file is not.
func (s *Server) Serve(ctx context.Context, containerID string, netns *os.File) error {
	ns, err := identify(netns)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old, closed := s.listeners[containerID], s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return errors.New("the server of names is closed")
	case old != nil && old.ns == ns:
		return nil
	case old != nil:
		s.Forget(containerID)
	}
	l, err := listen(s, containerID, netns)
	if err != nil {
		return fmt.Errorf("serve names to container %s: %w", containerID, err)
	}
	l.ns = ns
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		l.close()
		return errors.New("the server of names is closed")
	}
	s.listeners[containerID] = l
	l.start(context.WithoutCancel(ctx))
	return nil
}

// Forget ends what Serve began. When it returns, nothing of this process holds
// the namespace. To forget a container that is not served is no error.
func (s *Server) Forget(containerID string) {
	s.mu.Lock()
	l := s.listeners[containerID]
	delete(s.listeners, containerID)
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// Close forgets all containers. In their namespaces the rules stay, for the next
// server.
func (s *Server) Close() {
	s.mu.Lock()
	all := s.listeners
	s.listeners, s.closed = nil, true
	s.mu.Unlock()
	for _, l := range all {
		l.close()
	}
}

// nsID identifies a network namespace as long as it is there.
type nsID struct{ dev, ino uint64 }

func identify(netns *os.File) (nsID, error) {
	raw, err := netns.SyscallConn()
	if err != nil {
		return nsID{}, err
	}
	var st unix.Stat_t
	if cerr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); cerr != nil {
		return nsID{}, cerr
	}
	if err != nil {
		return nsID{}, os.NewSyscallError("fstat", err)
	}
	return nsID{dev: st.Dev, ino: st.Ino}, nil
}
