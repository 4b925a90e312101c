package ldap_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/ldap"
)

// proxy counts the connections that go through it.
type proxy struct {
	addr            string
	now, most, ever atomic.Int64
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.ever.Add(1)
			p.most.Store(max(p.most.Load(), p.now.Add(1)))
			wg.Go(func() { p.pipe(c, to) })
		}
	})
	return p
}

func (p *proxy) pipe(c net.Conn, to string) {
	defer p.now.Add(-1)
	defer c.Close()
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	go func() {
		_, _ = io.Copy(c, d)
		_ = c.Close()
	}()
	_, _ = io.Copy(d, c)
}

// However many log in at once, there are a few connections, which are used again;
// and what need not be asked is not.
func testBounded(t *testing.T, s *slapd) {
	p := startProxy(t, strings.TrimPrefix(s.plain, "ldap://"))
	o := s.options()
	o.URL = "ldap://" + p.addr
	src := source(t, o)
	for _, password := range []string{"", "\x00", strings.Repeat("x", 1<<20)} {
		if _, err := src.Login(t.Context(), "alice", password); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("%v", err)
		}
	}
	if n := p.ever.Load(); n > 0 {
		t.Errorf("%d connections for what no server need know", n)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			account, password, want := "alice", alicePass, error(nil)
			switch i % 3 {
			case 1:
				account, password = "bob", "bob's"
			case 2:
				password, want = "wrong", auth.ErrWrong
			}
			if id, err := src.Login(t.Context(), account, password); !errors.Is(err, want) || err == nil && id.Account != account {
				t.Errorf("%s: %+v, %v", account, id, err)
			}
		})
	}
	wg.Wait()
	if most, ever := p.most.Load(), p.ever.Load(); most > 8 || ever > 8 {
		t.Errorf("%d connections, %d at once; want no more than 8", ever, most)
	}
	src.Close()
	for deadline := time.Now().Add(10 * time.Second); p.now.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open after Close", p.now.Load())
		}
	}
}

// The server is killed and started again: nobody logs in meanwhile, and everybody
// afterwards, by new connections.
func testRestart(t *testing.T, s *slapd) {
	src := source(t, s.options())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { login(t, src, "alice", alicePass) })
	}
	wg.Wait()
	s.stop(syscall.SIGKILL)
	failure(t, src, "alice", alicePass)
	s.start()
	for range 10 {
		login(t, src, "alice", alicePass)
	}
	// Killed again, with no login meanwhile.
	s.stop(syscall.SIGKILL)
	s.start()
	login(t, src, "alice", alicePass)
}

// A server that does not answer holds a login up for as long as the options say,
// and nothing for longer.
func testStopped(t *testing.T, s *slapd) {
	o := s.options()
	o.Timeout = 500 * time.Millisecond
	starttls := o
	starttls.StartTLS, starttls.CA = true, s.ca
	ldaps := o
	ldaps.URL, ldaps.CA = s.tls, s.ca
	sources := []*ldap.Source{source(t, o), source(t, starttls), source(t, ldaps)}
	warm := source(t, o)
	login(t, warm, "alice", alicePass)
	sources = append(sources, warm)
	s.signal(syscall.SIGSTOP)
	resumed := false
	defer func() {
		if !resumed {
			s.signal(syscall.SIGCONT)
		}
	}()
	var wg sync.WaitGroup
	for _, src := range sources {
		for range 20 { // more than there are connections
			wg.Go(func() {
				start := time.Now()
				if _, err := src.Login(t.Context(), "alice", alicePass); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a server that is stopped: %v", err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	o.Timeout = time.Hour
	patient := source(t, o)
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := patient.Login(ctx, "alice", alicePass); !errors.Is(err, context.Canceled) {
		t.Errorf("whose caller has gone: %v", err)
	}
	s.signal(syscall.SIGCONT)
	resumed = true
	for _, src := range append(sources, patient) {
		// It has the requests of those who have gone to answer first.
		for deadline := time.Now().Add(30 * time.Second); ; {
			_, err := src.Login(t.Context(), "alice", alicePass)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after it went on: %v", err)
			}
		}
	}
}
