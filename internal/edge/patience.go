package edge

import (
	"net/http"
	"sync"
	"time"
)

// patient is the answer to a request of HTTP/2, whose client is given up if it
// does not take a piece of it for too long.
//
// By HTTP/1 the kernel does that (TCP_USER_TIMEOUT). By HTTP/2 a client can go on
// talking, and yet never make room for an answer (RFC 9113, section 10.5): each
// such stream would hold its handler, and the file that it sends, for good.
type patient struct {
	http.ResponseWriter
	limit time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	writing bool
}

// patiently serves a request of HTTP/2.
func (e *Edge) patiently(next http.Handler, w http.ResponseWriter, r *http.Request) {
	p := &patient{ResponseWriter: w, limit: e.o.Patience}
	defer p.end()
	next.ServeHTTP(p, r)
}

// Unwrap lets http.ResponseController reach the writer.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// piece is what a client must take, in bytes, within its time.
const piece = 64 << 10

func (p *patient) Write(b []byte) (n int, err error) {
	for {
		m, err := p.writePiece(b[n:min(len(b), n+piece)])
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

func (p *patient) writePiece(b []byte) (int, error) {
	p.begin()
	defer p.pause()
	return p.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (p *patient) Flush() { _ = p.FlushError() }

// FlushError is Flush for http.ResponseController.
func (p *patient) FlushError() error {
	p.begin()
	defer p.pause()
	return http.NewResponseController(p.ResponseWriter).Flush()
}

func (p *patient) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = true
	if p.timer == nil {
		p.timer = time.AfterFunc(p.limit, p.expire)
		return
	}
	p.timer.Reset(p.limit)
}

func (p *patient) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = false
	p.timer.Stop()
}

// expire resets the stream, if something is being written still: the writer may
// not be used after the handler has returned.
func (p *patient) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writing {
		_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Unix(1, 0)) // of HTTP/2: it can
	}
}

// end leaves what is still to be sent to the server, for as long.
func (p *patient) end() {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(p.limit))
}
