package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/api"
)

// TestHostile has wrong requests get an answer that says what is wrong, and none of
// them reach the backend.
func TestHostile(t *testing.T) {
	t.Parallel()
	good, err := json.Marshal(whole())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "stacks/shop/deploy", "", 400, "there is none"},
		{"POST", "stacks/shop/deploy", "\x00\xff{{{", 400, "invalid JSON"},
		{"POST", "stacks/shop/deploy", `"shop"`, 400, "invalid JSON"},
		{"POST", "stacks/shop/deploy", `{"Stack": {"Name": "shop"}`, 400, "unexpected EOF"},
		{"POST", "stacks/shop/deploy", `{"Stack": {"Name": "shop", "Newer": 1}}`, 400, `does not know \"Newer\"`},
		{"POST", "stacks/shop/deploy", string(good) + "{}", 400, "something behind it"},
		{"POST", "stacks/other/deploy", string(good), 400, `the stack is \"shop\"`},
		{"POST", "stacks/shop/deploy?dry-run=maybe", string(good), 400, "dry-run"},
		{"POST", "stacks/shop/deploy", `{"By": "` + strings.Repeat("x", 300) + `", "Stack": {"Name": "shop"}}`, 400, "longer than"},
		{"POST", "stacks/shop/deploy", strings.Repeat("[", 1<<20), 400, "invalid JSON"},
		{"POST", "stacks/shop/scale", `{"replicas": {}}`, 400, "no service"},
		{"POST", "stacks/shop/scale", `{"replicas": {"web": "many"}}`, 400, "invalid JSON"},
		{"POST", "stacks/shop/rollback?to=-1", "", 400, "number of a revision"},
		{"POST", "stacks/shop/rollback?to=99999999999999999999", "", 400, "number of a revision"},
		{"GET", "stacks/shop/revisions/x", "", 400, "number of a revision"},
		{"GET", "stacks/..%2f..%2fetc", "", 400, "invalid name"},
		{"GET", "stacks/%2e%2e/history", "", 400, "invalid name"},
		{"DELETE", "stacks/shop%2fhistory", "", 400, "invalid name"},
		{"GET", "stacks/Shop", "", 400, "invalid name"},
		{"DELETE", "stacks/" + strings.Repeat("x", 300), "", 400, "invalid name"},
		{"DELETE", "stacks/shop?volumes=perhaps", "", 400, "volumes"},
		{"GET", "stacks/shop%00", "", 400, "invalid name"},
		{"GET", "stacks/", "", 404, "page not found"},
		{"PUT", "stacks/shop", "", 404, "page not found"},
		{"GET", "nothing", "", 404, "page not found"},
	} {
		f := &fake{}
		d, _ := connect(t, f)
		resp, answer := d.raw(t, test.method, test.path, strings.NewReader(test.body))
		if resp.StatusCode != test.status || !strings.Contains(answer, test.says) || !strings.HasPrefix(answer, `{"message":`) {
			t.Errorf("%s %.60s %.60q: %s %s; want %d and %q", test.method, test.path, test.body, resp.Status, answer, test.status, test.says)
		}
		if len(f.asked) > 0 {
			t.Errorf("%s %.60s %.60q: reaches the backend as %v", test.method, test.path, test.body, f.asked)
		}
	}
}

// raw sends a request as it is.
func (d *daemon) raw(t *testing.T, method, path string, body io.Reader) (*http.Response, string) {
	t.Helper()
	conn, err := d.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	req, err := http.NewRequest(method, "http://x"+api.Prefix+path, body)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = req.Write(conn) }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

// TestLarge has requests of any size up to the bound pass, and larger ones be refused:
// by what they say, by what comes, and by the client before it sends anything.
func TestLarge(t *testing.T) {
	t.Parallel()
	f := &fake{}
	d, c := connect(t, f)
	req := whole()
	data := bytes.Repeat([]byte{7}, 3<<20)
	req.Contents = deploy.Contents{digest.FromBytes(data): data}
	if _, err := c.Deploy(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
	got := f.asked[1].(deploy.Request)
	if !bytes.Equal(got.Contents[digest.FromBytes(data)], data) {
		t.Error("the content is not what was sent")
	}
	asked := len(f.asked)
	req.Stack.Source = strings.Repeat("\x01", api.MaxBody/6+1) // six bytes of JSON each
	if _, err := c.Deploy(t.Context(), req, nil); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("the client: got %v", err)
	}
	for what, body := range map[string]io.Reader{
		"by what it says": bytes.NewReader(bytes.Repeat([]byte{' '}, api.MaxBody+1)),
		"by what comes":   io.LimitReader(spaces{}, api.MaxBody+1),
	} {
		resp, answer := d.raw(t, "POST", "stacks/shop/deploy", body)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "larger than 64 MiB") {
			t.Errorf("%s: %s %s", what, resp.Status, answer)
		}
	}
	if len(f.asked) != asked {
		t.Error("what is too large reaches the backend")
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestPulse has an answer in which nothing happens say that it lives, and an error
// after that still be told.
func TestPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{err: fmt.Errorf("in vain"), during: func(context.Context, func(deploy.Event)) { time.Sleep(40 * time.Second) }}
		w := httptest.NewRecorder()
		api.New(f, api.Options{}).ServeHTTP(w, httptest.NewRequest(http.MethodDelete, api.Prefix+"stacks/shop", nil))
		if got, want := w.Body.String(), "\n\n"+`{"error":{"message":"in vain","status":500}}`+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestObserved has requests told of by their routes, never by what clients make up.
func TestObserved(t *testing.T) {
	t.Parallel()
	var seen []string
	h := api.New(&fake{stacks: []deploy.Status{{}}}, api.Options{Observe: func(method, route string, status int, _ time.Duration) {
		seen = append(seen, fmt.Sprint(method, " ", route, " ", status))
	}})
	for _, path := range []string{"stacks", "stacks/shop", "stacks/Shop", "made/up"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, api.Prefix+path, nil))
	}
	want := "GET /berth/v1/stacks 200, GET /berth/v1/stacks/{name} 200, GET /berth/v1/stacks/{name} 400, other " + "other 404"
	if got := strings.Join(seen, ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzDeploy has any body either refused or taken, without a panic.
func FuzzDeploy(f *testing.F) {
	good, err := json.Marshal(whole())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"Stack":{"Name":"shop","Services":[{"Container":{"HostConfig":null}}]}}`))
	f.Add([]byte(`{"Contents":{"sha256:x":"!"}}`))
	h := api.New(&fake{}, api.Options{})
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, api.Prefix+"stacks/shop/deploy", bytes.NewReader(body)))
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
