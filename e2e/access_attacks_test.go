package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const attackedPolicy = `
- {who: [alice], repos: ["team/**"], may: [pull, push, delete]}
- {who: [alice], repos: ["secret/**"], may_not: [pull, push, delete, admin]}
- {who: [anonymous], repos: ["public/**"], may: [pull]}
`

// attacked is a server with something in it that alice must not get at.
type attacked struct {
	*guarded
	hostile *hostile
	alice   []string
	config  []byte // blob of every repository
	hidden  []byte // manifest of secret/app
}

func startAttacked(t *testing.T, config string) *attacked {
	t.Helper()
	a := &attacked{guarded: startGuarded(t, berthtest.Options{}, config, attackedPolicy), config: []byte(`{"is":"a configuration"}`)}
	a.hostile = &hostile{server: a.Server, wire: a.wire, before: 1 << 40}
	a.alice = a.basic("alice", a.user("alice"))
	for _, repo := range []string{"team/web", "public/web", "secret/app"} {
		a.hidden = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[],"annotations":{"told":"of %s"}}`,
			ociManifest, mustJSON(descriptorOf("application/vnd.oci.image.config.v1+json", a.config)), repo)
		a.send(a.root, http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(a.config).String(), a.config)
		a.send(append([]string{"Content-Type", ociManifest}, a.root...), http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/v1", a.hidden)
	}
	return a
}

// intact checks that the secret is as it was, that nothing has come beside it, and
// that the server has failed nobody.
func (a *attacked) intact() {
	a.t.Helper()
	if got := a.send(a.root, http.StatusOK, "GET", "/v2/secret/app/manifests/v1", nil); !bytes.Equal(got.body, a.hidden) {
		a.t.Errorf("the secret has become %s", got.body)
	}
	got := decode[struct{ Repositories []string }](a.t, string(a.send(a.root, http.StatusOK, "GET", "/v2/_catalog", nil).body)).Repositories
	if want := "public/web secret/app team/web"; strings.Join(got, " ") != want {
		a.t.Errorf("the repositories are %q, want %s", got, want)
	}
	if line := failed.FindString(a.Log()); line != "" {
		a.t.Errorf("the server has answered with %s", line)
	}
}

// secretNames are names that somebody could take for secret/app.
var secretNames = []string{
	"secret/app", "team/../secret/app", "team/web/../../secret/app", "team/%2e%2e/secret/app", "team/%2E%2E/secret/app", "team/..%2fsecret/app", "team%2f..%2fsecret%2fapp",
	"team/%252e%252e/secret/app", "team/..;/secret/app", "team/;/../secret/app", "team//secret/app", "/secret/app", "//secret/app", "./secret/app", "secret/./app",
	"secret//app", "secret%2fapp", "secret%2Fapp", "secret%5capp", "secret\\app", "SECRET/app", "Secret/app", "secret/APP", "secret/app/", "secret/app%2f", "secret/app.",
	"secret/app%00", "secret%00/app", "secret/app%20", "secret/app%09", "secret/app%0a", "secret/app%0d%0aX-A:b", "secret/app;", "secret/app;a=b", "secret/app%3f", "secret/app%23",
	"%73ecret/app", "team/web%2f..%2f..%2fsecret%2fapp", "ſecret/app", "secret/ａpp", "secret/app%e2%80%8b", "%e2%80%aesecret/app", "secret/%c0%aeapp", "secret%c0%afapp", "secret%ef%bc%8fapp",
	"*", "**", "secret/*", "secret/**", "team/**", "team/web,secret/app", "team/web:secret/app", "team/web secret/app", "team/web%20repository:secret/app",
	"team/web/secret/app", "secret/app/blobs/uploads", "team/web/manifests/v1/../../../../secret/app", strings.Repeat("a", 300), "team/" + strings.Repeat("a/", 3000) + "a",
	strings.Repeat("../", 50) + "secret/app", "team/web/_catalog", "_catalog", "_catalog/../secret/app", "v2/secret/app",
}

// TestAccessAttacks holds a server against those who mean no good.
func TestAccessAttacks(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(*testing.T){
		"names": attackNames, "scopes": attackScopes, "headers": attackHeaders, "enumeration": attackEnumeration, "guesses": attackGuesses, "tokens": attackTokens,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack(t)
		})
	}
}

// attackNames asks for what is secret by names that are not quite its own.
func attackNames(t *testing.T) {
	a := startAttacked(t, "")
	blob, manifest := digest.FromBytes(a.config).String(), digest.FromBytes(a.hidden).String()
	token := a.bearer(a.token(a.alice, "repository:team/web:pull,push,delete").Token)
	wide := a.bearer(a.token(a.root, "repository:team/web:*").Token)
	for _, name := range secretNames {
		for _, target := range []string{"/v2/" + name, "http://" + a.Addr + "/v2/" + name, "/" + name, "/v2/team/web/../../v2/" + name} {
			for _, r := range []string{
				"GET %s/manifests/v1", "GET %s/manifests/" + manifest, "HEAD %s/blobs/" + blob, "GET %s/tags/list", "GET %s/blobs/" + blob + "?n=1", "DELETE %s/manifests/v1",
				"DELETE %s/blobs/" + blob, "PUT %s/manifests/v2", "POST %s/blobs/uploads/", "POST %s/blobs/uploads/?mount=" + blob + "&from=team/web",
			} {
				if (target != "/v2/"+name || len(name) > 1000) && !strings.HasSuffix(r, "/manifests/v1") {
					continue
				}
				for who, header := range map[string][]string{"alice": a.alice, "alice's token": token, "root's narrow token": wide, "nobody": {"X", "y"}} {
					if who != "alice" && !strings.HasSuffix(r, "/manifests/v1") {
						continue // one is enough for what comes after the name
					}
					text := fmt.Sprintf(r, target) + " HTTP/1.1\r\nHost: " + a.Addr + "\r\nConnection: close\r\n" + header[0] + ": " + header[1] +
						"\r\nContent-Type: " + ociManifest + "\r\nContent-Length: 2\r\n\r\n{}"
					line, _, _ := strings.Cut(text, " HTTP/1.1")
					got := a.hostile.raw(t, text)
					switch {
					case got == nil:
						t.Errorf("%s: %.200q: no answer", who, line)
					case bytes.Contains(got.body, []byte("of secret/app")):
						t.Errorf("%s: %.200q: %s", who, line, *got)
					case got.status >= 400 && got.status < 500:
					case target == "/"+name && got.status == http.StatusTemporaryRedirect && localPath(got.header.Get("Location")):
						// A page by another path; it is asked for anew.
					case strings.HasPrefix(line, "PUT "), !legalBelowTeam(name):
						t.Errorf("%s: %.200q: %s", who, line, *got)
					}
				}
			}
		}
	}
	a.intact()
}

// localPath says whether a redirect goes nowhere else.
func localPath(location string) bool {
	return strings.HasPrefix(location, "/") && !strings.HasPrefix(location, "//") && !strings.HasPrefix(location, `/\`)
}

// legalBelowTeam says whether one of the names is one after all, and alice's own.
func legalBelowTeam(name string) bool {
	return name == "team/web/secret/app" || name == "team/web/_catalog"
}

// attackScopes asks for tokens for more than there is to be had, and mounts from
// where nothing may be read.
func attackScopes(t *testing.T) {
	a := startAttacked(t, "")
	blob := digest.FromBytes(a.config).String()
	n := 0
	for _, name := range secretNames {
		decoded, err := url.PathUnescape(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{name, decoded} {
			for _, scope := range []string{
				"repository:" + name + ":pull,push,delete,admin,*", "repository:team/web:pull repository:" + name + ":*", "repository(plugin):" + name + ":*",
				"registry:" + name + ":*", "repository:" + name + ":pull:push", "repository:team/web:pull,repository:" + name + ":*",
			} {
				got, err := a.wire.do("GET", "/token?"+url.Values{"service": {"berth"}, "scope": {scope}}.Encode(), nil, a.alice...)
				if err != nil {
					t.Fatal(err)
				}
				if got.status == http.StatusBadRequest {
					continue
				}
				n++
				token := a.tokens(got)
				for _, access := range claimsOf(t, token.Token)["access"].([]any) {
					granted := access.(map[string]any)
					what := fmt.Sprint(granted["type"], ":", granted["name"])
					if what != "repository:team/web" && what != "repository:team/web/secret/app" && what != "repository:team/web/manifests/v1" {
						t.Errorf("scope %q: granted %v", scope, granted)
					}
				}
				if got, err := a.wire.do("GET", "/v2/secret/app/manifests/v1", nil, a.bearer(token.Token)...); err != nil || got.status != http.StatusNotFound {
					t.Errorf("scope %q: the secret answers %s: %v", scope, got, err)
				}
			}
			for _, from := range []string{name, "team/web&from=" + name, name + "&from=team/web"} {
				got, err := a.wire.do("POST", "/v2/team/mounted/blobs/uploads/?mount="+blob+"&from="+strings.NewReplacer(" ", "+", "\x00", "%00", "\n", "%0a", "\r", "%0d", "\t", "%09", "#", "%23").Replace(from), nil, a.alice...)
				if err != nil {
					t.Fatalf("mount from %q: %v", from, err)
				}
				if got.status == http.StatusCreated && !strings.HasPrefix(from, "team/web&") {
					t.Errorf("mount from %q: %s", from, got)
				}
				if got.status == http.StatusCreated {
					a.send(a.root, http.StatusAccepted, "DELETE", "/v2/team/mounted/blobs/"+blob, nil)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no scope at all was understood")
	}
	a.intact()
}

// attackHeaders says who it is in ways that must not count.
func attackHeaders(t *testing.T) {
	a := startAttacked(t, "http: {public_url: \"https://registry.test\", trusted_proxies: [127.0.0.9]}")
	_, key := a.key("alice", "team/**:pull")
	rootToken := a.token(a.root, "repository:secret/app:pull").Token
	const path = "/v2/secret/app/manifests/v1"
	for name, header := range map[string][]string{
		"two headers":         {"Authorization: " + a.root[1], "Authorization: " + a.alice[1]},
		"two, the other way":  {"Authorization: " + a.alice[1], "Authorization: " + a.root[1]},
		"two of the same":     {"Authorization: " + a.root[1], "authorization: " + a.root[1]},
		"two in one":          {"Authorization: " + a.root[1] + ", " + a.root[1]},
		"two schemes in one":  {"Authorization: Basic Bearer " + rootToken},
		"space before colon":  {"Authorization : " + a.root[1]},
		"a key in a cookie":   {"Cookie: token=" + rootToken + "; session=" + key},
		"a proxy's header":    {"Proxy-Authorization: " + a.root[1]},
		"another header":      {"X-Authorization: " + a.root[1], "X-Forwarded-Authorization: " + a.root[1]},
		"a proxy's user":      {"Remote-User: root", "X-Remote-User: root", "X-Forwarded-User: root", "X-Webauth-User: root", "X-Auth-Request-User: root"},
		"a proxy's cert":      {"X-Forwarded-Client-Cert: Subject=\"CN=root\"", "X-SSL-Client-S-DN: CN=root", "Ssl-Client-Verify: SUCCESS"},
		"another path":        {"X-Original-URL: " + path, "X-Rewrite-URL: " + path, "Authorization: " + a.alice[1]},
		"not quite base64":    {"Authorization: Basic " + base64.RawURLEncoding.EncodeToString([]byte("root:\xff\xfe>>>???"))},
		"no colon":            {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("root"))},
		"no password":         {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("root:"))},
		"no account":          {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(":"+key))},
		"a line break":        {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("root:a\nb"))},
		"a zero":              {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("root\x00:a"))},
		"a very long account": {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("a", 20_000)+":a"))},
		"a huge one":          {"Authorization: Bearer " + strings.Repeat("a", 40_000)},
		"an id token of none": {"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjEifQ."},
		"a token in the path": {"Authorization: Bearer"},
	} {
		got := sayAndWait(t, a.Addr, "GET "+path+"?access_token="+rootToken[:20]+" HTTP/1.1\r\nHost: x\r\n"+strings.Join(header, "\r\n")+"\r\n\r\n")
		switch {
		case name == "no account" && got.status == http.StatusNotFound: // the key says whose it is
		case name == "another path" && got.status == http.StatusNotFound:
		case got.status != http.StatusUnauthorized && got.status != http.StatusBadRequest:
			t.Errorf("%s: %s: want 401 or 400", name, got)
		}
		if got.status == http.StatusUnauthorized && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), `Bearer realm="https://registry.test/token"`) {
			t.Errorf("%s: challenge %q", name, got.header.Get("WWW-Authenticate"))
		}
	}
	if got, err := a.wire.do("GET", path, nil, append([]string{"X-HTTP-Method-Override", "DELETE", "X-Method-Override", "DELETE"}, a.root...)...); err != nil || got.status != http.StatusOK {
		t.Errorf("a GET that would be a DELETE: %s: %v", got, err)
	}
	// Where somebody who is no trusted proxy says to come from, nobody writes down.
	_, err := a.wire.do("GET", path, nil, append([]string{"X-Forwarded-For", "203.0.113.7", "Forwarded", "for=203.0.113.7", "X-Real-Ip", "203.0.113.7", "X-Forwarded-Host", "evil.test"}, a.alice...)...)
	if err != nil {
		t.Fatal(err)
	}
	trusted := must(a.from("127.0.0.9").do("GET", path, nil, append([]string{"X-Forwarded-For", "203.0.113.8"}, a.alice...)...))(t)
	if trusted.status != http.StatusNotFound {
		t.Errorf("by a trusted proxy: %s", trusted)
	}
	waitFor(t, "request of the trusted proxy in the log", func() bool { return strings.Contains(a.Log(), `"client":"203.0.113.8"`) })
	audit := readFile(t, a.dir+"/audit.log")
	for where, text := range map[string]string{"log": a.Log(), "audit": audit} {
		if strings.Contains(text, "203.0.113.7") || strings.Contains(text, "evil.test") || !strings.Contains(text, "203.0.113.8") {
			t.Errorf("the %s believes who should not be believed", where)
		}
	}
	a.intact()
}

// attackEnumeration tries to find out which accounts there are.
func attackEnumeration(t *testing.T) {
	hash := berthtest.NewCommand(t, "htpasswd").Input("pw-"+rand.Text()).Run("-niB", "hatter")
	file := writeFile(t, t.TempDir(), "htpasswd", []byte(hash))
	a := startAttacked(t, "auth: {htpasswd: {file: "+file+"}}")
	a.user("disabled")
	a.admin(http.StatusOK, "PATCH", "users/disabled", map[string]any{"disabled": true})
	a.admin(http.StatusCreated, "POST", "users", map[string]any{"name": "robot", "robot": true})
	_, key := a.key("alice", "team/**:pull")
	revoked, old := a.key("alice", "team/**:pull")
	a.admin(http.StatusNoContent, "DELETE", "tokens/"+revoked, nil)
	wrong := "not-" + rand.Text()
	guesses := [][2]string{
		{"alice", wrong},
		{"hatter", wrong},
		{"disabled", wrong},
		{"robot", wrong},
		{"nobody", wrong},
		{"", wrong},
		{"Alice", wrong},
		{strings.Repeat("n", 200), wrong},
		{"no\u00e9", wrong},
		{"alice", old},
		{"alice", key[:len(key)-4] + "AAAA"},
		{"nobody", "berth_0123456789abcdef_" + strings.Repeat("a", 40)},
		{"robot", key},
	}
	ways := map[string]func(w *wire, account, password string) (answer, error){
		"base": func(w *wire, account, password string) (answer, error) {
			return w.do("GET", "/v2/", nil, a.basic(account, password)...)
		},
		"token": func(w *wire, account, password string) (answer, error) {
			return w.do("GET", "/token?service=berth", nil, a.basic(account, password)...)
		},
		"form": func(w *wire, account, password string) (answer, error) {
			form := url.Values{"grant_type": {"password"}, "username": {account}, "password": {password}, "service": {"berth"}}
			return w.do("POST", "/token", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
		},
		"administration": func(w *wire, account, password string) (answer, error) {
			return w.do("GET", "/api/v1/whoami", nil, a.basic(account, password)...)
		},
	}
	network := 2
	var all sync.WaitGroup
	for way, try := range ways {
		network++
		all.Go(func() { a.guess(t, way, fmt.Sprintf("127.0.%d.", network), guesses, try) })
	}
	all.Wait()
	a.intact()
}

// guess checks that all guesses are refused alike, each from an address of its own.
func (a *attacked) guess(t *testing.T, way, network string, guesses [][2]string, try func(w *wire, account, password string) (answer, error)) {
	t.Helper()
	var first answer
	for i, guess := range guesses {
		a.secret("a guess", guess[1])
		start := time.Now()
		got, err := try(a.from(network+strconv.Itoa(i+1)), guess[0], guess[1])
		if err != nil {
			t.Errorf("%s: %.20s: %v", way, guess[0], err)
			return
		}
		// How long the server has to think must not show: the answer comes at a
		// multiple of a quarter of a second. That it is late is for the machine to say.
		if took := time.Since(start); took < 200*time.Millisecond {
			t.Errorf("%s: the refusal of %.20s came after %v", way, guess[0], took)
		}
		if i == 0 {
			first = got
		}
		same := fmt.Sprint(stable(got.header)) == fmt.Sprint(stable(first.header))
		if got.status != http.StatusUnauthorized || !bytes.Equal(got.body, first.body) || !same {
			t.Errorf("%s: %.20s is refused with %s %v, and %s with %s %v", way, guess[0], got, got.header, guesses[0][0], first, first.header)
		}
	}
}

// attackGuesses guesses passwords, until it may no more.
func attackGuesses(t *testing.T) {
	a := startAttacked(t, "")
	_, key := a.key("alice", "team/**:pull")
	const path = "/v2/team/web/manifests/v1"
	var last answer
	tries := 0
	for ; last.status != http.StatusTooManyRequests; tries++ {
		if tries == 40 {
			t.Fatal("after 40 guesses there may be more")
		}
		// Another address that the client makes up is no other address.
		header := append([]string{"X-Forwarded-For", fmt.Sprintf("198.51.100.%d", tries)}, a.basic("alice", fmt.Sprintf("guess-%d-%s", tries, rand.Text()))...)
		last = must(a.wire.do("GET", path, nil, header...))(t)
		if last.status != http.StatusUnauthorized && last.status != http.StatusTooManyRequests {
			t.Fatalf("a guess answers %s", last)
		}
	}
	if tries < 4 {
		t.Errorf("somebody who mistypes a password may do so %d times", tries-1)
	}
	if after := last.header.Get("Retry-After"); after == "" || after == "0" || last.clear() != nil {
		t.Errorf("too many guesses: %s, Retry-After %q", last, after)
	}
	for what, got := range map[string]answer{
		"the password":        must(a.wire.do("GET", path, nil, a.basic("alice", "pw-"+rand.Text())...))(t),
		"at the token server": must(a.wire.do("GET", "/token?service=berth", nil, a.basic("alice", "pw-"+rand.Text())...))(t),
		"in a form":           a.form(url.Values{"grant_type": {"password"}, "username": {"ALICE"}, "password": {"pw-" + rand.Text()}}),
	} {
		if got.status != http.StatusTooManyRequests {
			t.Errorf("one more guess of %s: %s", what, got)
		}
	}
	// Nobody locks out those who are elsewhere, or others who are here.
	for what, got := range map[string]answer{
		"from elsewhere": must(a.from("127.0.0.2").do("GET", path, nil, a.alice...))(t),
		"by a key":       must(a.wire.do("GET", path, nil, a.basic("alice", key)...))(t),
		"of another":     must(a.wire.do("GET", path, nil, a.root...))(t),
	} {
		if got.status != http.StatusOK {
			t.Errorf("a login %s answers %s", what, got)
		}
	}
	if audit := readFile(t, a.dir+"/audit.log"); !strings.Contains(audit, "too many failed logins") {
		t.Error("the audit does not tell of too many failed logins")
	}
	a.intact()
}

// attackTokens comes with tokens that are not quite right; the matrix has more.
func attackTokens(t *testing.T) {
	a := startAttacked(t, "")
	f := newForger(t, a.guarded)
	a.hostile.server = a.Server
	const path = "/v2/team/web/manifests/v1"
	good := a.token(a.alice, "repository:team/web:pull").Token
	claims := claimsOf(t, good)
	a.send(a.bearer(good), http.StatusOK, "GET", path, nil)
	a.send(a.bearer(f.good(claims)), http.StatusOK, "GET", path, nil) // what follows is refused for what it says
	for name, token := range f.tokens(good) {
		for _, path := range []string{path, "/v2/", "/api/v1/whoami"} {
			if got := must(a.wire.do("GET", path, nil, a.bearer(token)...))(t); got.status != http.StatusUnauthorized {
				t.Errorf("%s: %s answers %s", name, path, got)
			}
		}
		if got := a.refresh(token, "repository:team/web:pull"); got.status != http.StatusUnauthorized {
			t.Errorf("%s, as a refresh token: %s", name, got)
		}
	}
	// Even the key that signs does not give more than policy does.
	access := []map[string]any{{"type": "repository", "name": "secret/app", "actions": []string{"*"}}, {"type": "repository", "name": "**", "actions": []string{"*"}}}
	forged := a.bearer(f.good(with(claims, "access", access)))
	a.send(forged, http.StatusNotFound, "GET", "/v2/secret/app/manifests/v1", nil)
	a.send(forged, http.StatusForbidden, "DELETE", "/v2/secret/app/manifests/v1", nil)
	a.send(forged, http.StatusUnauthorized, "GET", path, nil) // "**" is no name
	a.intact()
}
