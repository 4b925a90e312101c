package report_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
	"github.com/berth-registry/berth/runner/report"
)

// speaking is a node that speaks to real registries.
type speaking struct {
	*node
	remote *remote.Client
}

func (s *speaking) ReportUse(ctx context.Context, host string, login *registry.AuthConfig, r runner.UseReport) ([]reference.Canonical, error) {
	unknown, err := s.remote.ReportUse(ctx, host, login, r)
	_, _ = s.node.ReportUse(ctx, host, login, r)
	return unknown, err
}

func newSpeaking(t *testing.T, hosts map[string]remote.Host) *speaking {
	t.Helper()
	c, err := remote.New(remote.Options{Hosts: hosts, CertsDir: t.TempDir(), StallTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return &speaking{newNode(t), c}
}

const atOnce = "gc: {grace: 1ms, lease: 1ms, history: 0s, interval: 1h}\n"

// server is a registry with what a test does there.
type server struct {
	*berthtest.Server
	t    *testing.T
	http *http.Client
	user string // user:password
}

// push pushes an image of nothing but its configuration, and returns its digest.
func (s *server) push(repo, tag, text string) string {
	s.t.Helper()
	config := []byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","author":%q,"rootfs":{"type":"layers","diff_ids":[]}}`, text))
	d := digest.FromBytes(config)
	s.send("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", config, http.StatusCreated)
	manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, d, len(config)))
	s.send("PUT", "/v2/"+repo+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", manifest, http.StatusCreated)
	return digest.FromBytes(manifest).String()
}

func (s *server) send(method, path, contentType string, body []byte, want int) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if user, password, ok := strings.Cut(s.user, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
		s.t.Fatalf("%s %s: %s %s", method, path, resp.Status, said)
	}
}

// running waits until a node is known to run a number of manifests, or not at all if
// that is negative.
func (s *server) running(node string, want int) {
	s.t.Helper()
	var said string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		said = s.Berth("nodes", "--json").Run()
		var list struct {
			Nodes []struct {
				Name    string
				Running int
			}
		}
		if err := json.Unmarshal([]byte(said), &list); err != nil {
			s.t.Fatal(err)
		}
		for _, n := range list.Nodes {
			if n.Name == node && n.Running == want {
				return
			}
		}
	}
	s.t.Fatalf("node %s does not run %d: %s", node, want, said)
}

func startServer(t *testing.T, o berthtest.Options) *server {
	t.Helper()
	return &server{Server: berthtest.Start(t, o), t: t, http: http.DefaultClient}
}

// account makes an account, and returns the file of its password.
func (s *server) account(name string) string {
	s.t.Helper()
	password := "the password of " + name
	s.Berth("user", "add", name, "--password-stdin").Input(password + "\n").Run()
	file := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// What runs is kept by a registry with a policy that collects all it can, and goes
// when it runs no more.
func TestKept(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{"bearer", "basic"} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, berthtest.Options{Config: atOnce + "auth: {challenge: " + challenge + `}
policy:
- {who: [pusher], repos: ["**"], may: [pull, push, delete]}
- {who: [node], repos: ["team/**"], may: [pull]}
`})
			s.account("pusher")
			s.user = "pusher:the password of pusher"
			file := s.account("node")
			kept, secret := s.push("team/app", "v1", "one"), s.push("other/app", "v1", "two")
			n := newSpeaking(t, nil)
			app := s.Addr + "/team/app@" + kept
			n.runs(app, s.Addr+"/other/app@"+secret)
			o := to(s.Addr)
			o.Registries[0].Username, o.Registries[0].PasswordFile = "node", file
			stop := n.report(n, o)
			s.running("n1", 1)
			s.send("DELETE", "/v2/team/app/manifests/v1", "", nil, http.StatusAccepted)
			s.Berth("gc").Run()
			s.send("GET", "/v2/team/app/manifests/"+kept, "", nil, http.StatusOK)
			// What the account may not pull is not kept for it.
			if said := strings.Join(n.log(), "\n"); !strings.Contains(said, "does not keep some") || !strings.Contains(said, "other/app@"+secret) || strings.Contains(said, app) {
				t.Errorf("logged %s", said)
			}

			// The runner's end takes nothing back, another image does.
			stop()
			s.Berth("gc").Run()
			s.send("GET", "/v2/team/app/manifests/"+kept, "", nil, http.StatusOK)
			next := s.push("team/app", "v2", "three")
			n.report(n, o)
			s.running("n1", 1)
			n.runs(s.Addr + "/team/app@" + next)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				if list := n.reports(s.Addr); len(list) > 0 && len(list[len(list)-1].Images) == 1 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the change is not reported")
				}
			}
			s.running("n1", 1)
			s.Berth("gc").Run()
			s.send("GET", "/v2/team/app/manifests/"+kept, "", nil, http.StatusNotFound)
			s.send("GET", "/v2/team/app/manifests/"+next, "", nil, http.StatusOK)
		})
	}
}

// A registry without a policy takes reports of anybody, one with certificates of who
// has one.
func TestWithoutPassword(t *testing.T) {
	t.Parallel()
	t.Run("open", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, berthtest.Options{Config: atOnce})
		d := s.push("app", "v1", "one")
		n := newSpeaking(t, nil)
		n.runs(s.Addr + "/app@" + d)
		n.report(n, to(s.Addr))
		s.running("n1", 1)
	})
	t.Run("certificate", func(t *testing.T) {
		t.Parallel()
		ca, clients := berthtest.NewCA(t), berthtest.NewCA(t)
		cert, key := ca.Server("127.0.0.1")
		s := startServer(t, berthtest.Options{CA: ca, Config: fmt.Sprintf(`
http: {tls: {cert: %s, key: %s, client_ca: %s}}
auth: {certificates: {account: cn, groups: ou}}
policy:
- {who: [pusher], repos: ["**"], may: [pull, push]}
- {who: ["group:hosts"], repos: ["team/**"], may: [pull]}
`, cert, key, clients.File)})
		s.http, s.user = ca.HTTP(), "pusher:the password of pusher"
		s.account("pusher")
		d := s.push("team/app", "v1", "one")
		cert, key = clients.Client("web-1", "hosts")
		n := newSpeaking(t, map[string]remote.Host{"registry.test": {Endpoint: s.URL + "/team", CA: ca.File, Cert: cert, Key: key}})
		n.runs("registry.test/app@" + d)
		n.report(n, to("registry.test"))
		s.running("n1", 1)
		if said := s.Berth("nodes").Run(); !strings.Contains(said, "web-1") {
			t.Errorf("who reports: %s", said)
		}
	})
}

// Who is refused, and what is no registry of ours, is told from the rest.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t, berthtest.Options{Config: "policy:\n- {who: [authenticated], repos: [\"**\"], may: [pull]}\n"})
	one, two, wrong := s.account("one"), s.account("two"), filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("a wrong password"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	hostile := func(h http.HandlerFunc) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://")
	}
	answers := func(status int, text string) string {
		return hostile(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		})
	}
	ctx := t.Context()
	for _, tt := range []struct {
		what, host, user, file, want string
	}{
		{"the first account", s.Addr, "one", one, "keeps what runs here"},
		{"another account", s.Addr, "two", two, "another account reports for the node"},
		{"nobody", s.Addr, "", "", "registries." + s.Addr + " are those of an account"},
		{"a wrong password", s.Addr, "one", wrong, "registries." + s.Addr + " are those of an account"},
		{"an account that is not there", s.Addr, "three", one, "registries." + s.Addr + " are those of an account"},
		{"nothing there", "127.0.0.1:" + port, "one", one, "connection refused"},
		{"a registry of another kind", answers(404, "404 page not found\n"), "one", one, "do not set report"},
		{"one that refuses the method", answers(405, ""), "one", one, "do not set report"},
		{"a page for people", answers(200, "<html>Welcome</html>"), "one", one, "do not set report"},
		{"an answer without end", answers(200, `{"unknown":[`+strings.Repeat(" ", 9<<20)), "one", one, "more than the 8388608 bytes"},
		{"names that are none", answers(200, `{"unknown":[{"repository":"../../etc","digest":"sha256:x"},{"repository":"a\u001b[2J","digest":"x"}]}`), "one", one, "keeps what runs here"},
		{"a server in trouble", answers(500, `{"errors":[{"code":"X","message":"\u001b[2Jtrouble"}]}`), "one", one, "trouble"},
		{"another report at once", answers(409, `{"errors":[{"code":"NODE_CONFLICT","message":"newer"}]}`), "one", one, "another runner has this name"},
		{"one that is silent", hostile(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-ctx.Done():
			}
		}), "one", one, "sent nothing for 1s"},
		{"one that wants the password elsewhere", hostile(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("the password goes where nobody asked for it")
			}
			http.Redirect(w, r, s.URL+"/api/v1/nodes/stolen", http.StatusTemporaryRedirect)
		}), "one", one, "registries.127.0.0.1:"},
	} {
		n := newSpeaking(t, nil)
		stop := n.report(n, report.Options{Interval: time.Hour, Registries: []report.Registry{{Host: tt.host, Username: tt.user, PasswordFile: tt.file}}})
		said := ""
		for deadline := time.Now().Add(15 * time.Second); said == "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			said = n.log()[0]
		}
		stop()
		if !strings.Contains(said, tt.want) || strings.Contains(said, "password of one") || strings.Contains(said, "\x1b") {
			t.Errorf("%s: logged %s, want %s", tt.what, said, tt.want)
		}
	}
}
