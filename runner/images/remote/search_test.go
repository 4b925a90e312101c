package remote

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/berth-registry/berth/runner"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	s := berth(t)
	var src contents
	c := client(t, Options{DefaultRegistry: s.localhost()})
	for _, repo := range []string{"team/web", "team/busybox", "busy"} {
		if _, err := c.Repository(named(t, s.addr+"/"+repo), nil).Push(t.Context(), "v1", src.image(t, 10), &src, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		req  runner.SearchRequest
		want string
		err  string
	}{
		{runner.SearchRequest{Term: s.localhost() + "/busy"}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "busy"}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "team/"}, "[team/busybox team/web]", ""},
		{runner.SearchRequest{Term: "busy", Limit: 1}, "[busy]", ""},
		{runner.SearchRequest{Term: "nothing"}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-official": {"true"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-automated": {"true"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"stars": {"1", "3"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-official": {"0"}, "stars": {"0"}}}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"stars": {"many"}}}, "", "invalid filter 'stars=many'"},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"color": {"red"}}}, "", "invalid filter 'color'"},
		{runner.SearchRequest{Term: "busy", Limit: -1}, "", "limit -1 is outside the range of [1, 100]"},
		{runner.SearchRequest{Term: "busy", Limit: 101}, "", "limit 101 is outside the range of [1, 100]"},
		{runner.SearchRequest{Term: "https://busy"}, "", "should not have a scheme"},
	} {
		found, err := c.Search(t.Context(), test.req)
		if test.err != "" {
			wantError(t, err, runner.ErrInvalid, test.err)
			continue
		}
		names := []string{}
		for _, f := range found {
			names = append(names, f.Name)
		}
		slices.Sort(names)
		if got := fmt.Sprint(names); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v: want %s", test.req, got, err, test.want)
		}
	}
}

// TestIPv6 reaches a registry by an address in brackets.
func TestIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = client(t, Options{}).Repository(named(t, addr+"/x"), nil).Resolve(t.Context(), "v1")
	wantError(t, err, nil, `Get "http://`+addr+`/v2/": dial tcp `+addr+`: connect: connection refused`)
}
