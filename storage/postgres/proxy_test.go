package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a store and its server, and cuts connections at the worst
// moment: when a COMMIT comes by.
type proxy struct {
	net.Listener
	to string

	mu    sync.Mutex
	mode  cut
	cuts  int
	shut  bool // new connections are cut
	conns map[net.Conn]struct{}
	ends  sync.WaitGroup
}

type cut int

const (
	cutNothing cut = iota
	cutAnswer      // the server has committed, and its answer is lost
	cutBefore      // the COMMIT does not arrive, and the server sees that the client has gone
	cutSilent      // the COMMIT does not arrive, and the server sees nothing
)

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to, conns: map[net.Conn]struct{}{}}
	p.ends.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.ends.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.closeAll()
		p.ends.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.Addr().String() }

// next has the next COMMIT cut.
func (p *proxy) next(mode cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
}

// refuse has all connections cut, those that come and, at their next message, those that
// are there but for one that commits.
func (p *proxy) refuse(shut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = shut
}

func (p *proxy) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shut
}

// take is what to do with a COMMIT.
func (p *proxy) take() (mode cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mode, p.mode = p.mode, cutNothing; mode != cutNothing {
		p.cuts++
	}
	return mode
}

func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// closeAll cuts all connections.
func (p *proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	if p.refuses() {
		_ = server.Close()
		return
	}
	p.keep(client)
	p.keep(server)
	swallow := make(chan struct{})
	p.ends.Go(func() {
		defer client.Close()
		answers(client, server, swallow)
	})
	silent := p.requests(client, server, swallow)
	if !silent {
		_ = server.Close()
	}
}

// requests passes on what the client sends, message by message.
func (p *proxy) requests(client, server net.Conn, swallow chan struct{}) (silent bool) {
	if start, err := message(client, 0); err != nil || send(server, start) != nil {
		return false
	}
	texts := map[string]string{} // of prepared statements
	for {
		m, err := message(client, 1)
		if err != nil {
			return false
		}
		isCommit := false
		if p.refuses() && (m[0] == 'Q' || m[0] == 'P') {
			return false
		}
		switch body := m[5:]; m[0] {
		case 'P':
			name, rest, _ := bytes.Cut(body, []byte{0})
			text, _, _ := bytes.Cut(rest, []byte{0})
			texts[string(name)] = string(text)
		case 'B':
			_, rest, _ := bytes.Cut(body, []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			isCommit = strings.EqualFold(texts[string(name)], "COMMIT")
		}
		if isCommit {
			switch p.take() {
			case cutAnswer:
				close(swallow)
			case cutBefore:
				return false
			case cutSilent:
				return true
			case cutNothing:
			}
		}
		if send(server, m) != nil {
			return false
		}
	}
}

// answers passes on what the server sends; once swallow is closed nothing, until it has
// committed.
func answers(client, server net.Conn, swallow chan struct{}) {
	for {
		m, err := message(server, 1)
		if err != nil {
			return
		}
		select {
		case <-swallow:
			if m[0] == 'C' && bytes.HasPrefix(m[5:], []byte("COMMIT\x00")) {
				return
			}
			continue
		default:
		}
		if send(client, m) != nil {
			return
		}
	}
}

// message reads a message: its type, if it has one, its length and what is in it.
func message(r io.Reader, typed int) ([]byte, error) {
	head := make([]byte, typed+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[typed:])
	if n < 4 || n > 1<<30 {
		return nil, io.ErrUnexpectedEOF
	}
	m := append(head, make([]byte, n-4)...)
	_, err := io.ReadFull(r, m[len(head):])
	return m, err
}

func send(w io.Writer, m []byte) error {
	_, err := w.Write(m)
	return err
}
