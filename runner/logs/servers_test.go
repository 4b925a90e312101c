package logs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// syslogServer takes messages in lines over TCP. It reads nothing while it is
// held.
type syslogServer struct {
	t     *testing.T
	addr  string
	hold  sync.Mutex
	mu    sync.Mutex
	lines []string // without what stands before the text
	tags  map[string]int
	l     net.Listener
	conns map[net.Conn]bool
	work  sync.WaitGroup
}

func newSyslogServer(t *testing.T) *syslogServer {
	t.Helper()
	s := &syslogServer{t: t, addr: "127.0.0.1:0", tags: map[string]int{}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *syslogServer) config() map[string]string {
	return map[string]string{"syslog-address": "tcp://" + s.addr, "tag": "{{.Name}}"}
}

// start listens, where it did before.
func (s *syslogServer) start() {
	s.t.Helper()
	var l net.Listener
	await(s.t, func() (err error) { // a client of somebody's may have its port for a moment
		l, err = (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", s.addr)
		return err
	})
	s.addr, s.l, s.conns = l.Addr().String(), l, map[net.Conn]bool{}
	s.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.work.Go(func() { s.read(c) })
		}
	})
}

func (s *syslogServer) read(c net.Conn) {
	r := bufio.NewReaderSize(c, 4<<10)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return // a message without its end is none
		}
		s.hold.Lock()
		_, text, _ := strings.Cut(line, "]: ")
		before, _, _ := strings.Cut(line, "[")
		s.mu.Lock()
		s.lines = append(s.lines, text)
		s.tags[before[strings.LastIndexByte(before, ' ')+1:]]++
		s.mu.Unlock()
		s.hold.Unlock()
	}
}

// stop ends all connections, whatever they have that was not read.
func (s *syslogServer) stop() {
	s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

func (s *syslogServer) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.lines)
}

// await waits until something has come.
func await(t *testing.T, what func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := what()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// inOrder returns an error unless the numbered lines have come, all and in order;
// what came before may come again, at most as many times as said.
func inOrder(got []string, lines, again int) error {
	next, back := 0, 0
	for i := 0; i < len(got); i++ {
		if got[i] == numbered(next) {
			next++
			continue
		}
		n := -1
		_, _ = fmt.Sscanf(got[i], "%d", &n)
		if n < 0 || n >= next || got[i] != numbered(n) {
			return fmt.Errorf("%.30q comes after line %d", got[i], next-1)
		}
		back++
		for ; i < len(got) && got[i] == numbered(n) && n < next; n++ {
			i++
		}
		i--
	}
	if next < lines || back > again {
		return fmt.Errorf("%d lines of %d, some %d times again", next, lines, back)
	}
	return nil
}

// fluentServer takes messages over a unix socket, and acknowledges them.
type fluentServer struct {
	t    *testing.T
	path string
	l    net.Listener
	work sync.WaitGroup

	mu      sync.Mutex
	records []map[string]any
	deaf    int // messages that are taken and not acknowledged
}

func newFluentServer(t *testing.T) *fluentServer {
	t.Helper()
	s := &fluentServer{t: t, path: filepath.Join(t.TempDir(), "s")}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *fluentServer) start() {
	s.t.Helper()
	var err error
	if s.l, err = (&net.ListenConfig{}).Listen(s.t.Context(), "unix", s.path); err != nil {
		s.t.Fatal(err)
	}
	s.work.Go(func() {
		for {
			c, err := s.l.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() {
				defer c.Close()
				_ = s.take(c)
			})
		}
	})
}

func (s *fluentServer) stop() {
	s.l.Close()
	s.work.Wait()
}

func (s *fluentServer) config() map[string]string {
	return map[string]string{"fluentd-address": "unix://" + s.path, "fluentd-request-ack": "true", "fluentd-retry-wait": "10ms"}
}

func (s *fluentServer) take(c net.Conn) error {
	r := msgp.NewReader(c)
	for {
		v, err := r.ReadIntf()
		if err != nil {
			return err
		}
		message := v.([]any)
		s.mu.Lock()
		for _, e := range message[1].([]any) {
			s.records = append(s.records, e.([]any)[1].(map[string]any))
		}
		deaf := s.deaf > 0
		s.deaf = max(s.deaf-1, 0)
		s.mu.Unlock()
		if deaf {
			return errors.New("deaf")
		}
		var ack bytes.Buffer
		w := msgp.NewWriter(&ack)
		chunk := message[2].(map[string]any)["chunk"].(string)
		if err := errors.Join(w.WriteMapStrStr(map[string]string{"ack": chunk}), w.Flush()); err != nil {
			return err
		}
		if _, err := c.Write(ack.Bytes()); err != nil {
			return err
		}
	}
}

// lines returns what has come, whole lines of a stream put together.
func (s *fluentServer) lines(source string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	open := ""
	for _, r := range s.records {
		if r["source"] != source {
			continue
		}
		open += r["log"].(string)
		if last := r["partial_last"]; last == nil || last == "true" {
			lines = append(lines, open+"\n")
			open = ""
		}
	}
	return lines
}

// gone says whether a directory is empty.
func gone(dir string) error {
	left, err := os.ReadDir(dir)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s is left", left[0].Name())
	}
	return err
}
