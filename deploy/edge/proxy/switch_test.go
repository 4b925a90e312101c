package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSwitch moves a host from replica to replica while clients use it: no request
// fails, none that begins after a switch is answered by the replica before, and what
// streams goes on.
func TestSwitch(t *testing.T) {
	t.Parallel()
	const host, switches, workers = "switch.test", 100, 4
	p := open(t)
	first := newBackend(t, "v0")
	set(t, "stack/switch", routeTo(host, first.upstream(1)))

	stream, err := client(t, false).Get("http://" + host + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := bufio.NewScanner(stream.Body)
	socket, lines := dialSocket(t, host)

	var begun atomic.Int64 // the switch that is done
	var requests, wrong atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range workers {
		c := client(t, i%2 == 0)
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				least := begun.Load()
				got, err := ask(c, host, n)
				requests.Add(1)
				var version int64
				if _, serr := fmt.Sscanf(got, "v%d", &version); err != nil || serr != nil || version < least {
					wrong.Add(1)
					t.Errorf("after switch %d: %q, %v", least, got, err)
					return
				}
			}
		})
	}
	before := first
	for i := 1; i <= switches; i++ {
		next := newBackend(t, fmt.Sprintf("v%d", i))
		if err := p.Set("stack/switch", []edgeRoute{routeTo(host, next.upstream(1))}); err != nil {
			t.Fatal(err)
		}
		begun.Store(int64(i))
		if before != first {
			eventually(t, "the one before has no request any more", func() bool { return p.Requests(before.id) == 0 })
			before.Close()
		}
		before = next
	}
	eventually(t, "some more requests", func() bool { return requests.Load() > 2000 || wrong.Load() > 0 })
	close(stop)
	all.Wait()
	t.Logf("%d requests during %d switches", requests.Load(), switches)

	// Another handler of the route changes nothing for those of the one before.
	other := routeTo(host, before.upstream(1))
	other.MaxBody, other.Compress = 1<<20, true
	if err := p.Set("stack/switch", []edgeRoute{other}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !events.Scan() {
			t.Fatalf("the stream has ended: %v", events.Err())
		}
	}
	if n := p.Requests(first.id); n != 2 {
		t.Errorf("the first replica has %d requests, want its stream and its socket", n)
	}
	for i := range 3 {
		fmt.Fprintf(socket, "%d\n", i)
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("v0 %d\n", i) {
			t.Fatalf("the socket: %q, %v", line, err)
		}
	}
}

// ask makes one request of those that a client makes.
func ask(c *http.Client, host string, n int) (string, error) {
	const size = 100_000
	var resp *http.Response
	var err error
	if n%3 == 0 {
		// A body that cannot be sent twice.
		resp, err = c.Post("http://"+host+"/form", "text/plain", io.MultiReader(strings.NewReader(strings.Repeat("x", size))))
	} else {
		resp, err = c.Get("http://" + host + "/page")
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	if err == nil && n%3 == 0 && !strings.HasSuffix(string(body), fmt.Sprint(size)) {
		err = fmt.Errorf("%d bytes were sent, and came as %s", size, body)
	}
	return string(body), err
}

// TestHeld keeps a request that nobody is there for until somebody is.
func TestHeld(t *testing.T) {
	t.Parallel()
	const host = "held.test"
	p := open(t)
	gone := newBackend(t, "gone")
	gone.Close()
	set(t, "stack/held", routeTo(host, gone.upstream(1)))
	answer := make(chan string, 1)
	c := client(t, false)
	go func() {
		got, err := ask(c, host, 0)
		answer <- fmt.Sprint(got, err)
	}()
	eventually(t, "the request waits", func() bool { return p.requests.Load() > 0 })
	came := newBackend(t, "came")
	if err := p.Set("stack/held", []edgeRoute{routeTo(host, came.upstream(1))}); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got != "came 100000<nil>" {
		t.Errorf("the request that waited: %s", got)
	}
	// And not for ever.
	r := routeTo(host, gone.upstream(1))
	r.TryFor = 300 * time.Millisecond
	if err := p.Set("stack/held", []edgeRoute{r}); err != nil {
		t.Fatal(err)
	}
	if status, body := fetch(t, c, "http://"+host+"/"); status != http.StatusBadGateway || !strings.Contains(body, "no replica of the service answers") {
		t.Errorf("nobody answers: %d %s", status, body)
	}
	r.Upstreams = nil
	if err := p.Set("stack/held", []edgeRoute{r}); err != nil {
		t.Fatal(err)
	}
	if status, body := fetch(t, c, "http://"+host+"/"); status != http.StatusServiceUnavailable || !strings.Contains(body, "no replica of the service is there") {
		t.Errorf("nobody is there: %d %s", status, body)
	}
}

// TestSettles: a switch is done when nobody chooses any more among those who answered
// before. It is alone: a switch of another test would wait for the choice that is held
// here, and this one's for its turn.
func TestSettles(t *testing.T) {
	const host = "settles.test"
	p := open(t)
	old, next := newBackend(t, "old"), newBackend(t, "next")
	set(t, "stack/settles", routeTo(host, old.upstream(1)))
	e, _ := p.table.Load().find(host, "/")
	chooses := &attempt{host: host, path: "/", route: e.route}
	if got := p.hold(chooses).choose("", nil); got.id != old.id {
		t.Fatalf("chosen before the switch: %s", got.id)
	}
	defer chooses.release()
	done := make(chan error, 1)
	go func() { done <- p.Set("stack/settles", []edgeRoute{routeTo(host, next.upstream(1))}) }()
	later := &attempt{host: host, path: "/", route: e.route}
	eventually(t, "others choose among the new", func() bool {
		defer later.release()
		return p.hold(later).choose("", nil).id == next.id
	})
	select {
	case err := <-done:
		t.Fatalf("the switch is done while somebody chooses: %v", err)
	default:
	}
	chooses.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
