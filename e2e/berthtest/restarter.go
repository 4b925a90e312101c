package berthtest

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
)

// Restarter returns a command that ends the runner as an upgrade does and starts
// it again, as often as it is given to a shell, until the test ends.
func (r *Runner) Restarter() string {
	r.tb.Helper()
	socket := filepath.Join(r.tb.TempDir(), "restart")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		r.tb.Fatal(err)
	}
	ask, answer := make(chan struct{}), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		ask <- struct{}{}
		<-answer
	})}
	go func() { // of its own, not the server's: what fails in it fails the test
		for range ask {
			r.Stop()
			r.Restart()
			answer <- struct{}{}
		}
	}()
	go func() { _ = server.Serve(listener) }()
	r.tb.Cleanup(func() {
		_ = server.Close()
		close(ask)
	})
	return fmt.Sprintf("curl -fsS --unix-socket %s http://runner/", socket)
}
