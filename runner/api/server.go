package api

import (
	"log/slog"
	"net/http"
)

// Options are what the API can be told.
type Options struct {
	// Log receives failures that are not the client's, and at debug level a line
	// for each request.
	Log *slog.Logger
	// Version is the engine's own, for the Server header.
	Version string
}

// New makes the handler of the API of e. The server that it is given to should
// bound the size and the time of requests' headers; bodies are bounded here.
func New(e Engine, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &server{engine: e, o: o}
}

type server struct {
	engine Engine
	o      Options
}

func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
}
