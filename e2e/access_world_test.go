package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// guarded is a server with access control that logs all it can. Its account root
// may do everything. When the test ends, none of the secrets that were used may be
// in its log, its audit file or its data.
type guarded struct {
	*berthtest.Server
	wire *wire
	root []string // header of root

	t       *testing.T
	dir     string // of the audit file
	mu      sync.Mutex
	secrets map[string]string // what it is, by secret
}

// startGuarded starts one with a configuration, in which the rules of policy come
// after that of root.
func startGuarded(t *testing.T, o berthtest.Options, config, policy string) *guarded {
	t.Helper()
	g := &guarded{t: t, dir: t.TempDir(), secrets: map[string]string{}}
	o.Data = filepath.Join(t.TempDir(), "data")
	t.Cleanup(g.leaksNothing) // after the server's end
	password := g.secret("the password of root", "pw-"+rand.Text())
	berthtest.NewCommand(t, "sh", "-ec").Input(password+"\n").Run(`"$0" user add root --data "$1" --password-stdin`, berthtest.Binary(t, "berth"), o.Data)
	o.Config = g.config(config, policy)
	g.Server = berthtest.Start(t, o)
	g.wire = newWire(g.URL)
	if o.CA != nil {
		g.wire.http.Transport = o.CA.HTTP().Transport
	}
	g.root = g.basic("root", password)
	return g
}

// config is the text of a configuration.
func (g *guarded) config(config, policy string) string {
	return fmt.Sprintf("log: {level: debug, format: json, access: true}\naudit: {output: %s}\n%s\npolicy:\n"+
		"- {who: [root], repos: [\"**\"], may: [pull, push, delete, admin]}\n%s\n", filepath.Join(g.dir, "audit.log"), config, policy)
}

// reconfigure has the server read another configuration, and waits until its log
// says what came of it.
func (g *guarded) reconfigure(yaml, logged string) {
	g.t.Helper()
	g.Configure(yaml)
	before := strings.Count(g.Log(), logged)
	if err := syscall.Kill(g.Pid(), syscall.SIGHUP); err != nil {
		g.t.Fatal(err)
	}
	waitFor(g.t, logged, func() bool { return strings.Count(g.Log(), logged) > before })
}

// secret remembers a secret, and returns it.
func (g *guarded) secret(what, secret string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.secrets[secret] = what
	return secret
}

// basic is the header of an account and its password.
func (g *guarded) basic(account, password string) []string {
	g.secret("the password of "+account, password)
	text := base64.StdEncoding.EncodeToString([]byte(account + ":" + password))
	return []string{"Authorization", "Basic " + g.secret("the header of "+account, text)}
}

// bearer is the header of a token.
func (g *guarded) bearer(token string) []string {
	return []string{"Authorization", "Bearer " + g.secret("a token", token)}
}

// send sends a request that must be answered with a status.
func (g *guarded) send(header []string, status int, method, path string, body []byte) answer {
	g.t.Helper()
	return must(g.wire.must(status, method, path, bytes.NewReader(body), header...))(g.t)
}

// admin is send for the administration, by root.
func (g *guarded) admin(status int, method, path string, body any) answer {
	g.t.Helper()
	header := append([]string{"Content-Type", "application/json"}, g.root...)
	return g.send(header, status, method, "/api/v1/"+path, mustJSON(body))
}

// user makes an account, and returns its password.
func (g *guarded) user(name string, groups ...string) string {
	g.t.Helper()
	password := g.secret("the password of "+name, "pw-"+rand.Text())
	g.admin(http.StatusCreated, "POST", "users", map[string]any{"name": name, "password": password, "groups": groups})
	return password
}

// key makes an API key of an account for "PATTERN:ACTION,..." and returns its id and
// its secret.
func (g *guarded) key(account string, grants ...string) (id, key string) {
	g.t.Helper()
	list := []map[string]any{}
	for _, grant := range grants {
		repos, actions, _ := strings.Cut(grant, ":")
		list = append(list, map[string]any{"repos": repos, "actions": strings.Split(actions, ",")})
	}
	a := g.admin(http.StatusCreated, "POST", "tokens", map[string]any{"account": account, "grants": list, "never": true})
	made := decode[struct{ ID, Secret string }](g.t, string(a.body))
	return made.ID, g.secret("a key of "+account, made.Secret)
}

// tokens are what the token endpoint answers with.
type tokens struct {
	Token   string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Scope   string `json:"scope"`
}

func (g *guarded) tokens(a answer) (got tokens) {
	g.t.Helper()
	if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusOK || got.Token == "" {
		g.t.Fatalf("the token endpoint answers %d: %v", a.status, err)
	}
	g.secret("a token", got.Token)
	if got.Refresh != "" {
		g.secret("a refresh token", got.Refresh)
	}
	return got
}

// token gets a registry token for scopes, by wire.
func (g *guarded) token(header []string, scopes ...string) tokens {
	g.t.Helper()
	return g.tokenBy(g.wire, header, scopes...)
}

func (g *guarded) tokenBy(w *wire, header []string, scopes ...string) tokens {
	g.t.Helper()
	q := url.Values{"service": {"berth"}, "scope": scopes, "offline_token": {"true"}}
	return g.tokens(must(w.do("GET", "/token?"+q.Encode(), nil, header...))(g.t))
}

// refresh gets a registry token for a refresh token.
func (g *guarded) refresh(refresh string, scopes ...string) answer {
	g.t.Helper()
	return g.form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {"berth"}, "scope": {strings.Join(scopes, " ")}})
}

func (g *guarded) form(form url.Values) answer {
	g.t.Helper()
	return must(g.wire.do("POST", "/token", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded"))(g.t)
}

// from is a client at another address of the loopback.
func (g *guarded) from(addr string) *wire { return g.fromWire(g.wire, addr) }

// fromWire is from for one that shows the certificate of another.
func (g *guarded) fromWire(like *wire, addr string) *wire {
	w := *like.http
	transport := like.http.Transport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: time.Minute}).DialContext
	w.Transport = transport
	g.t.Cleanup(transport.CloseIdleConnections)
	return &wire{g.URL, &w}
}

// tail is how much of the end of a secret nothing may tell.
const tail = 24

// leaksNothing looks for the secrets in all that the server has written.
func (g *guarded) leaksNothing() {
	if g.Server == nil {
		return
	}
	written := map[string][]byte{"the log": []byte(g.Log())}
	for _, dir := range []string{g.dir, g.Data} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				written[path], err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			g.t.Errorf("look for secrets: %v", err)
		}
	}
	// What is there must be found, or what is not found proves nothing.
	for where, sign := range map[string]string{"the log": `"msg":"request"`, filepath.Join(g.dir, "audit.log"): `"login"`, filepath.Join(g.Data, "meta.db"): "root"} {
		if !bytes.Contains(written[where], []byte(sign)) {
			g.t.Errorf("there is no %s in %s", sign, where)
		}
	}
	for where, data := range written {
		for secret, what := range g.secrets {
			for _, form := range []string{secret, url.QueryEscape(secret)} {
				if bytes.Contains(data, []byte(form[max(0, len(form)-tail):])) {
					g.t.Errorf("%s is in %s", what, where)
				}
			}
		}
	}
}
