package postgrestest

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// shared is the server of Shared.
var shared struct {
	sync.Mutex
	dsn     string
	schemas int
	suite   suite
}

// Shared returns the DSN of an empty schema of its own, in a server that all tests of a
// package share and leave running. Its TestMain must call Main.
func Shared(tb testing.TB) (dsn string) {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.dsn == "" {
		if p := shared.suite.start(); p != nil {
			tb.Fatal(p)
		}
	}
	shared.schemas++
	return fmt.Sprintf("%s search_path=shared_%d", shared.dsn, shared.schemas)
}

// Main is TestMain for a package that uses Shared.
func Main(m *testing.M) {
	code := m.Run()
	for _, f := range shared.suite.cleanups {
		f()
	}
	if shared.suite.failed {
		code = 1
	}
	os.Exit(code) //revive:disable-line:deep-exit // it is TestMain
}

// suite is what the shared server takes for its test: all of them.
type suite struct {
	testing.TB
	cleanups []func()
	failed   bool
}

// start starts the server, and returns why it does not start.
func (s *suite) start() (problem any) {
	defer func() { problem = recover() }()
	shared.dsn = Start(s)
	return nil
}

func (*suite) Helper()                         {}
func (s *suite) Cleanup(f func())              { s.cleanups = append(s.cleanups, f) }
func (s *suite) Failed() bool                  { return s.failed }
func (*suite) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (*suite) Fatal(args ...any)               { panic(fmt.Sprint(args...)) }
func (*suite) Fatalf(format string, a ...any)  { panic(fmt.Sprintf(format, a...)) }

func (s *suite) Error(args ...any) {
	s.failed = true
	fmt.Fprintln(os.Stderr, args...)
}

func (s *suite) Errorf(format string, args ...any) { s.Error(fmt.Sprintf(format, args...)) }
