package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// In the containers of the works about stacks runs this program, as a server. It is
// told how many bytes come, reads them or to the end, and answers with its name and
// their number. The client ends the connection, with a reset, so that neither side
// keeps it for a minute, as hosts do that have clients of their own each.
const (
	exchangePort  = "7000"
	exchangePiece = 256 << 10
	sizeLength    = 8 // bytes of the number
)

// serveName is a helper: it is that server, with the name given. Told to end, it
// takes no more connections and ends with the last one.
func serveName(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: want a name", errUsage)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+exchangePort)
	if err != nil {
		return err
	}
	return answerAll(ctx, l, args[0])
}

// answerAll answers connections until ctx ends.
func answerAll(ctx context.Context, l net.Listener, name string) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		open.Go(func() {
			defer c.Close()
			answerName(c, name)
		})
	}
}

// answerName is one connection of serveName.
func answerName(c net.Conn, name string) {
	var size [sizeLength]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return // the client sees that
	}
	var got int64
	if most := int64(binary.BigEndian.Uint64(size[:])); most > 0 {
		b := make([]byte, exchangePiece)
		for got < most {
			n, err := c.Read(b)
			got += int64(n)
			if err != nil {
				break
			}
		}
	}
	if _, err := fmt.Fprintf(c, "%s %d\n", name, got); err == nil {
		_, _ = c.Read(size[:1]) // the client has the last word
	}
}

// exchange connects to such a server, sends it up to size bytes with send, which may
// be nil if there are none, and returns its answer.
func exchange(ctx context.Context, addr string, size uint64, send func(*net.TCPConn) error) (name string, got int64, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", 0, err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := errors.Join(c.SetLinger(0), c.SetDeadline(time.Now().Add(exchangeTime))); err != nil {
		return "", 0, err
	}
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, size)); err != nil {
		return "", 0, err
	}
	if send != nil {
		if err := send(c); err != nil {
			return "", 0, err
		}
	}
	line, err := bufio.NewReaderSize(c, 64).ReadString('\n')
	if err != nil {
		return "", 0, err
	}
	return parseAnswer(line)
}

// exchangeTime is how long an exchange may take.
const exchangeTime = 30 * time.Second

// parseAnswer reads an answer of serveName.
func parseAnswer(line string) (name string, got int64, err error) {
	name, count, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	got, err = strconv.ParseInt(count, 10, 64)
	if !ok || name == "" || err != nil || got < 0 {
		return "", 0, fmt.Errorf("the server answers %q", line)
	}
	return name, got, nil
}

// What exchangeLoad can do.
const (
	loadStreams = "streams" // MB a second, sent by all clients
	loadConnect = "connect" // connections a second, each with one exchange of no bytes
)

// exchangeLoad is a helper: clients load a server for a while. It writes the rate.
func exchangeLoad(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("%w: want a kind of load, addresses with commas, a number of clients and a duration", errUsage)
	}
	clients, err1 := strconv.Atoi(args[2])
	window, err2 := time.ParseDuration(args[3])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	load := map[string]func(context.Context, []string, time.Time) (float64, error){loadStreams: stream, loadConnect: connect}[args[0]]
	if load == nil {
		return fmt.Errorf("%w: no load %q", errUsage, args[0])
	}
	addrs := strings.Split(args[1], ",")
	sums, errs := make([]float64, clients), make([]error, clients)
	var done sync.WaitGroup
	start := time.Now()
	for i := range clients {
		done.Go(func() { sums[i], errs[i] = load(ctx, addrs, start.Add(window)) })
	}
	done.Wait()
	took := time.Since(start).Seconds()
	var sum float64
	for _, s := range sums {
		sum += s
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := fmt.Fprintln(os.Stdout, sum/took)
	return err
}

// stream sends until a time, and returns the MB that have arrived.
func stream(ctx context.Context, addrs []string, end time.Time) (float64, error) {
	b := make([]byte, exchangePiece)
	_, got, err := exchange(ctx, anyOf(addrs), math.MaxInt64, func(c *net.TCPConn) error {
		for time.Now().Before(end) {
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
		return c.CloseWrite()
	})
	return float64(got) / mb, err
}

// connect makes one connection after the other until a time, and counts them.
func connect(ctx context.Context, addrs []string, end time.Time) (n float64, err error) {
	for ; err == nil && time.Now().Before(end); n++ {
		_, _, err = exchange(ctx, anyOf(addrs), 0, nil)
	}
	return n, err
}

// anyOf chooses as the switch does between replicas.
func anyOf(addrs []string) string { return addrs[rand.IntN(len(addrs))] }

// asked is what clients that go on all the time have met.
type asked struct {
	requests, failed atomic.Int64
	stop             context.CancelFunc
	done             sync.WaitGroup
}

// The clients of startAsking.
const (
	loadAskers = 20
	askPause   = 20 * time.Millisecond
	askAtMost  = 2 * time.Second // that a request may take: users do not wait longer
)

// startAsking has clients ask a server, each with a new connection and a pause after
// each answer or failure.
func startAsking(ctx context.Context, addr string) *asked {
	a := &asked{}
	ctx, a.stop = context.WithCancel(ctx)
	for range loadAskers {
		a.done.Go(func() {
			for ctx.Err() == nil {
				one, cancel := context.WithTimeout(ctx, askAtMost)
				_, _, err := exchange(one, addr, 0, nil)
				cancel()
				if ctx.Err() != nil {
					return
				}
				a.requests.Add(1)
				if err != nil {
					a.failed.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(askPause):
				}
			}
		})
	}
	return a
}

// end stops the clients, and returns how many requests have failed.
func (a *asked) end() (failed float64, err error) {
	a.stop()
	a.done.Wait()
	if a.requests.Load() == 0 {
		return 0, errors.New("the clients have asked nothing")
	}
	return float64(a.failed.Load()), nil
}
