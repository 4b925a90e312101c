package main

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/registry"
)

// observed tells of each request that h serves, and sees to it that the request has
// an id that all who tell of it use, and that the client is told. The registry's
// server and the gate do so themselves.
func observed(route string, h http.Handler, tell func(context.Context, registry.Record)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := registry.RequestID(r)
		r.Header.Set("X-Request-Id", id)
		w.Header().Set("X-Request-Id", id)
		client, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			client = r.RemoteAddr
		}
		if audit.FromContext(r.Context()) == nil { // nobody has asked yet who it is
			r = r.WithContext(audit.NewContext(r.Context(), &audit.Actor{Client: client, Request: id}))
		}
		answer := &counted{ResponseWriter: w}
		defer func() {
			tell(r.Context(), registry.Record{
				ID: id, Client: client, Method: r.Method, Path: r.URL.Path, Route: route,
				Status: cmp.Or(answer.status, http.StatusOK), Out: answer.bytes, Duration: time.Since(start),
			})
		}()
		h.ServeHTTP(answer, r)
	})
}

// counted is an answer that is looked at on its way.
type counted struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController reach the writer.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *counted) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(p []byte) (int, error) {
	c.status = cmp.Or(c.status, http.StatusOK)
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}
