package edge

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/berth-registry/berth/runner"
)

// The requests that the program answers on its control socket.
const (
	StatusPath   = "/status"   // GET: a Status
	RoutesPath   = "/routes"   // PUT ?owner=NAME: a list of routes; POST: whether it would be taken; GET: all of them by their owners
	RequestsPath = "/requests" // GET ?container=ID: how many requests it has now
	AlivePath    = "/alive"    // GET: does not answer as long as the program serves
	RetirePath   = "/retire"   // POST: answers when no further request is taken
	StopPath     = "/stop"     // POST: the program ends
)

// Status is what the program says of itself.
type Status struct {
	PID     int
	Version string
	Program Program
	Options Options
	Owners  int // that have routes
	// Requests are those that it serves now, those of streams and WebSockets included.
	Requests int64
	Services []ServiceStats
}

// ServiceStats are the requests of a service since the program began.
type ServiceStats struct {
	Owner, Service string
	Answers        map[string]int64 // by the class of their status: 2xx, ...
	Time           time.Duration    // that all of them took together
}

// Program tells one file of a program from another.
type Program struct {
	Device, Inode uint64
	Size, Changed int64
}

// ProgramOf identifies the program at a path.
func ProgramOf(path string) (Program, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Program{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return Program{}, fmt.Errorf("%s: not a file of this system", path)
	}
	return Program{Device: st.Dev, Inode: st.Ino, Size: st.Size, Changed: st.Mtim.Nano()}, nil
}

// Problem is an error on the wire.
type Problem struct{ Message string }

// Statuses are the kinds of errors that the program answers with.
func Statuses() map[int]error {
	return map[int]error{
		http.StatusBadRequest:         runner.ErrInvalid,
		http.StatusNotFound:           runner.ErrNotFound,
		http.StatusConflict:           runner.ErrConflict,
		http.StatusServiceUnavailable: runner.ErrUnavailable,
	}
}
