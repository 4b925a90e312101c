package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/berth-registry/berth/deploy/edge"
)

// The names of listeners.
const (
	plainName  = "http"
	secureName = "https"
)

// listeners are the sockets that are listened on, by their names.
type listeners map[string]*listener

// listener is a socket that may be closed more than once.
type listener struct {
	*net.TCPListener

	address string // as it was asked for
	once    sync.Once
	err     error
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.TCPListener.Close() })
	return l.err
}

func (l listeners) close() error {
	var errs []error
	for _, one := range l {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// overlap says whether one of them is in the way of an address that is wanted: it has
// another address with the same port.
func (l listeners) overlap(o edge.Options) bool {
	for _, one := range l {
		_, port, err := net.SplitHostPort(one.address)
		for name, address := range map[string]string{plainName: o.HTTP, secureName: o.HTTPS} {
			_, wanted, werr := net.SplitHostPort(address)
			if err == nil && werr == nil && port == wanted && (l[name] != one || one.address != address) {
				return true
			}
		}
	}
	return false
}

// listen opens what the options name, but for what it is handed.
func listen(ctx context.Context, o edge.Options, handed listeners) (listeners, error) {
	all := listeners{}
	for name, address := range map[string]string{plainName: o.HTTP, secureName: o.HTTPS} {
		if address == "" {
			continue
		}
		if l := handed[name]; l != nil && l.address == address {
			all[name] = l
			continue
		}
		var config net.ListenConfig
		l, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot listen on %s for %s: %w", address, name, err), all.close())
		}
		all[name] = &listener{TCPListener: l.(*net.TCPListener), address: address}
	}
	for name, l := range handed {
		if all[name] != l {
			_ = l.Close() // nobody is to be served there
		}
	}
	return all, nil
}

// listener is what Caddy serves on.
func (p *Proxy) listener(name string) (net.Listener, error) {
	l := p.listeners[name]
	if l == nil {
		return nil, fmt.Errorf("no socket for %s", name)
	}
	if name == secureName {
		return tls.NewListener(l, p.certs.config()), nil
	}
	return l, nil
}
