package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// upload is a request's body that knows whether it has been read to its end.
type upload struct {
	io.ReadCloser
	ended bool
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		u.ended = true
	}
	return n, err
}

// receive gets the request's body ready, if there is one: an answer may begin
// before all of it has come.
func (x *exchange) receive() *upload {
	if x.r.ContentLength == 0 {
		return nil
	}
	// Without it an early answer makes the server throw away what comes.
	if http.NewResponseController(x.w).EnableFullDuplex() != nil {
		return nil
	}
	u := &upload{ReadCloser: x.r.Body}
	x.r.Body = u
	return u
}

// drain reads what nobody wanted of a body, for a while. A client that still sends
// would otherwise find its connection reset, and never learn why.
func (x *exchange) drain(u *upload) {
	if u == nil || u.ended || x.w.hijacked {
		return
	}
	x.w.Flush()
	rc := http.NewResponseController(x.w)
	if rc.SetReadDeadline(time.Now().Add(linger)) != nil {
		return
	}
	if _, err := io.Copy(io.Discard, u); err != nil {
		panic(http.ErrAbortHandler) // the connection is of no more use
	}
	_ = rc.SetReadDeadline(time.Time{})
}
