package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
)

// count asks n times who answers.
func count(t *testing.T, c *http.Client, url string, n int) map[string]int {
	t.Helper()
	by := map[string]int{}
	for range n {
		status, body := fetch(t, c, url)
		if status != http.StatusOK {
			t.Fatalf("status %d: %s", status, body)
		}
		name, _, _ := strings.Cut(body, " ")
		by[name]++
	}
	return by
}

func TestWeights(t *testing.T) {
	t.Parallel()
	const host = "weights.test"
	blue, green, none := newBackend(t, "blue"), newBackend(t, "green"), newBackend(t, "none")
	p := open(t)
	c := client(t, true)
	for _, tt := range []struct{ blue, green, min, max int }{{90, 10, 18, 22}, {1, 1, 98, 102}, {1000, 3000, 148, 152}, {0, 7, 200, 200}} {
		set(t, "stack/weights", routeTo(host, blue.upstream(tt.blue), green.upstream(tt.green), none.upstream(0)))
		by := count(t, c, "http://"+host+"/", 200)
		if n := by["green"]; n < tt.min || n > tt.max || by["none"] > 0 {
			t.Errorf("with %d and %d: %v", tt.blue, tt.green, by)
		}
	}
	eventually(t, "800 answers are counted", func() bool {
		for _, s := range p.services() {
			if s.Owner == "stack/weights" {
				return s.Service == "web" && s.Answers["2xx"] == 800 && len(s.Answers) == 1 && s.Time > 0
			}
		}
		return false
	})
	if p.Requests(blue.id) != 0 {
		t.Error("a replica has requests that have ended")
	}
}

func TestSticky(t *testing.T) {
	t.Parallel()
	const host, at = "sticky.test", "http://sticky.test/"
	blue, green := newBackend(t, "blue"), newBackend(t, "green")
	p := open(t)
	r := routeTo(host, blue.upstream(1), green.upstream(1))
	r.Sticky = "berth_shop"
	set(t, "stack/sticky", r)
	c := client(t, true)
	jar := func() http.CookieJar {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		return jar
	}
	// Each client stays with one, and there are clients of both.
	firsts := map[string]int{}
	for range 4 {
		c.Jar = jar()
		by := count(t, c, at, 5)
		if len(by) != 1 {
			t.Errorf("a client had %v", by)
		}
		for name := range by {
			firsts[name]++
		}
	}
	if len(firsts) != 2 {
		t.Errorf("four clients had %v", firsts)
	}
	// The client of blue stays while blue has any weight, then goes, and stays there.
	c.Jar = jar()
	for count(t, c, at, 1)["blue"] == 0 {
		c.Jar = jar()
	}
	for _, tt := range []struct {
		blue int
		want string
	}{{1, "blue"}, {0, "green"}, {1000, "green"}} {
		r.Upstreams = []upstream{blue.upstream(tt.blue), green.upstream(99)}
		if err := p.Set("stack/sticky", []edgeRoute{r}); err != nil {
			t.Fatal(err)
		}
		if by := count(t, c, at, 10); by[tt.want] != 10 {
			t.Errorf("blue with %d: %v", tt.blue, by)
		}
	}
	// A replica that is gone without a word.
	green.Close()
	if by := count(t, c, at, 10); by["blue"] != 10 {
		t.Errorf("green is gone: %v", by)
	}
	u, _ := url.Parse(at)
	if cookies := c.Jar.Cookies(u); len(cookies) != 1 || strings.Contains(cookies[0].Value, "blue") {
		t.Errorf("cookies: %v", cookies)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	const host, at = "retries.test", "http://retries.test"
	dead, live, other := newBackend(t, "dead"), newBackend(t, "live"), newBackend(t, "other")
	dead.Close()
	p := open(t)
	set(t, "stack/retries", routeTo(host, dead.upstream(5), live.upstream(1)))
	c := client(t, false)
	// One that refuses costs no request, whatever it is.
	for n := range 6 {
		if got, err := ask(c, host, n); err != nil || !strings.HasPrefix(got, "live") {
			t.Errorf("one of two is dead: %q, %v", got, err)
		}
	}
	// One that hangs up has perhaps done it: only what the route lets repeat is.
	r := routeTo(host, live.upstream(1), other.upstream(1))
	for _, tt := range []struct {
		retries int
		method  string
		path    string
		body    string
		status  int
		asked   int64
	}{
		{0, "GET", "/abort", "", http.StatusBadGateway, 1},
		{1, "GET", "/abort", "", http.StatusBadGateway, 2},
		{1, "POST", "/abort", "", http.StatusBadGateway, 1},
		{1, "GET", "/abort", "body", http.StatusBadGateway, 1},
	} {
		r.Retries = tt.retries
		if err := p.Set("stack/retries", []edgeRoute{r}); err != nil {
			t.Fatal(err)
		}
		// net/http repeats by itself what fails on a connection that was used before.
		again := int64(0)
		if tt.method == http.MethodGet && tt.body == "" {
			again = 2
		}
		before := live.n.Load() + other.n.Load()
		req, err := http.NewRequest(tt.method, at+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n := live.n.Load() + other.n.Load() - before; resp.StatusCode != tt.status || n < tt.asked || n > tt.asked+again {
			t.Errorf("%+v: status %d, %d were asked", tt, resp.StatusCode, n)
		}
	}
	for range 4 { // whoever is asked first, the other answers
		if status, body := fetch(t, c, at+"/abort/live"); status != http.StatusOK {
			t.Errorf("one hangs up: %d %s", status, body)
		}
	}
}

// TestClientGone: a client that goes away in the middle does not make the replica one
// that does not answer.
func TestClientGone(t *testing.T) {
	t.Parallel()
	const host = "gone.test"
	b := newBackend(t, "b")
	p := open(t)
	set(t, "stack/gone", routeTo(host, b.upstream(1)))
	c := client(t, false)
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write([]byte("half"))
		eventually(t, "the replica has it", func() bool { return p.Requests(b.id) == 1 })
		_ = w.CloseWithError(fmt.Errorf("enough"))
	}()
	if _, err := c.Post("http://"+host+"/form", "text/plain", r); err == nil {
		t.Fatal("a request that was broken off is answered")
	}
	eventually(t, "it is over", func() bool { return p.Requests(b.id) == 0 })
	begin := time.Now()
	if by := count(t, c, "http://"+host+"/", 3); by["b"] != 3 || time.Since(begin) > 2*time.Second {
		t.Errorf("after it: %v in %s", by, time.Since(begin))
	}
}

// TestStickyRoutes: two routes of a host whose cookies have one name do not take clients
// from each other. A cookie says no more than it must.
func TestStickyRoutes(t *testing.T) {
	t.Parallel()
	const host = "sticky-routes.test"
	page := routeTo(host, newBackend(t, "page1").upstream(1), newBackend(t, "page2").upstream(1))
	api := routeTo(host, newBackend(t, "api1").upstream(1), newBackend(t, "api2").upstream(1))
	page.TLS, api.TLS, api.Paths = deploy.TLSInternal, deploy.TLSInternal, []string{"/api"}
	page.Sticky, api.Sticky = "replica", "replica"
	set(t, "stack/sticky-routes", page, api)
	c := secureClient(t)
	resp, err := c.Get("https://" + host + "/api/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, flags, _ := strings.Cut(resp.Header.Get("Set-Cookie"), ";"); flags != " Path=/api; HttpOnly; Secure; SameSite=Lax" {
		t.Errorf("the cookie: %q", resp.Header["Set-Cookie"])
	}
	if c.Jar, err = cookiejar.New(nil); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 5 {
		for _, path := range []string{"/", "/api"} {
			for name := range count(t, c, "https://"+host+path, 1) {
				seen[name] = true
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("one client had %v", seen)
	}
}
