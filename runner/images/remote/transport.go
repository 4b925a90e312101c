package remote

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleTime is how long a connection waits for another request: longer than what
	// usually lies between two reports of a node.
	idleTime = 90 * time.Second
	// maxSessions is how many servers' sessions of TLS are kept.
	maxSessions = 64
)

// newTransport speaks HTTP/1.1: several layers at once are faster by a connection each
// than within the windows of one. Its sessions of TLS are its own, and are taken up
// again: who waits for news has a connection for each answer.
func newTransport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(maxSessions)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // digests are of the bytes as stored
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// certSum tells apart what a host is spoken to with: the files of its certificates.
type certSum [32]byte

// ownTransports are those of hosts with certificates of their own, each for as long as
// these are the same. What was proven with others counts no more: a new transport has no
// connections, and no sessions.
type ownTransports struct {
	mu sync.Mutex
	by map[string]ownTransport
}

type ownTransport struct {
	sum certSum
	*http.Transport
}

// of is the transport of a host, made with a configuration if there is none yet.
func (o *ownTransports) of(name string, sum certSum, config *tls.Config) *http.Transport {
	o.mu.Lock()
	defer o.mu.Unlock()
	old, known := o.by[name]
	if known && old.sum == sum {
		return old.Transport
	}
	if known {
		old.CloseIdleConnections()
	}
	if o.by == nil {
		o.by = map[string]ownTransport{}
	}
	o.by[name] = ownTransport{sum, newTransport(config)}
	return o.by[name].Transport
}
