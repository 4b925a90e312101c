package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"
)

// conn is an HTTP/1.1 connection that costs as little as it can, so that the
// server is what is measured: requests are bytes made beforehand, of an answer
// only what the works need is read, bodies are thrown away.
type conn struct {
	net.Conn
	r    *bufio.Reader
	sink []byte
}

// answer is what is kept of a response.
type answer struct {
	status   int
	length   int64  // of the body, -1 if it came in chunks
	location string // if wanted
	closes   bool   // the server ends the connection
}

// patience is how long a connection may live. No work takes that long.
const patience = time.Hour

func dial(ctx context.Context, addr string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 16<<10), sink: make([]byte, 1*mb)}, nil
}

// request returns the bytes of a request without a body, or the head of one with
// a body whose length is among the headers.
func request(method, addr, target string, headers ...string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: berth-bench\r\n", method, target, addr)
	for _, h := range headers {
		b = append(append(b, h...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// do sends a request and reads the answer, whose status must be want.
func (c *conn) do(want int, head []byte, body ...[]byte) (answer, error) {
	if err := c.send(head, body); err != nil {
		// A server that refuses a body says why before it closes the connection.
		if a, rerr := c.answer(head); rerr == nil {
			return a, fmt.Errorf("%s: status %d, want %d", target(head), a.status, want)
		}
		return answer{}, fmt.Errorf("%s: %w", target(head), err)
	}
	a, err := c.answer(head)
	if err != nil {
		return a, fmt.Errorf("%s: %w", target(head), err)
	}
	if a.status != want {
		return a, fmt.Errorf("%s: status %d, want %d", target(head), a.status, want)
	}
	if a.closes {
		return a, fmt.Errorf("%s: the server closes the connection", target(head))
	}
	return a, nil
}

func (c *conn) send(head []byte, body [][]byte) error {
	if len(body) == 0 {
		_, err := c.Write(head)
		return err
	}
	bufs := append(net.Buffers{head}, body...)
	_, err := bufs.WriteTo(c.Conn)
	return err
}

// target is the first line of a request, for messages.
func target(head []byte) string {
	line, _, _ := bytes.Cut(head, []byte(" HTTP/1.1"))
	return string(line)
}

func (c *conn) answer(head []byte) (answer, error) {
	a, err := c.answerHead()
	if err != nil || head[0] == 'H' { // HEAD
		return a, err
	}
	if a.length >= 0 {
		return a, c.discard(a.length)
	}
	if _, err = io.CopyBuffer(io.Discard, httputil.NewChunkedReader(c.r), c.sink); err != nil {
		return a, err
	}
	_, err = c.r.Discard(len("\r\n"))
	return a, err
}

// answerHead reads the head of a response.
func (c *conn) answerHead() (answer, error) {
	var a answer
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return a, errors.New("malformed status line")
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("malformed status line: %w", err)
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return a, err
		}
		if len(line) <= len("\r\n") {
			return a, nil
		}
		if err := a.header(line); err != nil {
			return a, err
		}
	}
}

// header takes what matters from a line of a head.
func (a *answer) header(line []byte) error {
	var err error
	switch line[0] | 0x20 { // lower case
	case 'c':
		if v, ok := valueOf(line, "Content-Length:"); ok {
			a.length, err = strconv.ParseInt(string(v), 10, 64)
		} else if v, ok := valueOf(line, "Connection:"); ok {
			a.closes = bytes.EqualFold(v, []byte("close"))
		}
	case 'l':
		if v, ok := valueOf(line, "Location:"); ok {
			a.location = string(v)
		}
	case 't':
		if _, ok := valueOf(line, "Transfer-Encoding:"); ok {
			a.length = -1
		}
	}
	return err
}

func valueOf(line []byte, name string) ([]byte, bool) {
	if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name):]), true
}

// discard reads n bytes: what is buffered, then straight from the socket.
func (c *conn) discard(n int64) error {
	buffered := min(int64(c.r.Buffered()), n)
	if _, err := c.r.Discard(int(buffered)); err != nil {
		return err
	}
	for n -= buffered; n > 0; {
		got, err := c.Read(c.sink[:min(int64(len(c.sink)), n)])
		n -= int64(got)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// together has n clients, each with a connection to addr, run fn at once. It
// returns the time from their start to the end of the last. It stops them when
// ctx ends.
func together(ctx context.Context, addr string, n int, fn func(i int, c *conn) error) (time.Duration, error) {
	conns, err := dialAll(ctx, addr, n)
	defer closeAll(conns)
	if err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { closeAll(conns) })()
	errs := make([]error, n)
	var done sync.WaitGroup
	start := time.Now()
	for i, c := range conns {
		done.Go(func() { errs[i] = fn(i, c) })
	}
	done.Wait()
	elapsed := time.Since(start)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return elapsed, errors.Join(errs...)
}

// dialAll returns the connections that it made, also when it fails.
func dialAll(ctx context.Context, addr string, n int) ([]*conn, error) {
	var conns []*conn
	for range n {
		c, err := dial(ctx, addr)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.Close()
	}
}
