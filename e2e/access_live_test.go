package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const (
	reloaded    = `"msg":"configuration reloaded"`
	notReloaded = `"msg":"configuration not reloaded`
)

// TestAccessReload changes the policy while requests run: it holds from then on, and
// one that is wrong, or none at all, leaves the old one in force.
func TestAccessReload(t *testing.T) {
	t.Parallel()
	const may, mayNot = `- {who: [alice], repos: ["team/**"], may: [pull, push]}`, `- {who: [alice], repos: ["team/**"], may_not: [pull, push]}`
	g := startGuarded(t, berthtest.Options{}, "", may)
	alice := g.basic("alice", g.user("alice"))
	token := g.bearer(g.token(alice, "repository:team/web:pull,push").Token)
	blob := []byte("a blob")
	d := digest.FromBytes(blob).String()
	g.send(alice, http.StatusCreated, "POST", "/v2/team/web/blobs/uploads/?digest="+d, blob)

	// Meanwhile others come all the time: each gets one answer or the other.
	var stop atomic.Bool
	var others sync.WaitGroup
	for _, header := range [][]string{alice, token} {
		others.Go(func() {
			for !stop.Load() {
				a, err := g.wire.do("GET", "/v2/team/web/blobs/"+d, nil, header...)
				if err != nil || (a.status != http.StatusOK || !bytes.Equal(a.body, blob)) && a.status != http.StatusNotFound {
					t.Errorf("while the policy changes: %s: %v", a, err)
					return
				}
			}
		})
	}
	check := func(what string, pull, push int) {
		t.Helper()
		for _, header := range [][]string{alice, token} {
			if a := must(g.wire.do("GET", "/v2/team/web/blobs/"+d, nil, header...))(t); a.status != pull {
				t.Errorf("%s: a pull answers %s, want %d", what, a, pull)
			}
			if a := must(g.wire.do("POST", "/v2/team/web/blobs/uploads/", nil, header...))(t); a.status != push {
				t.Errorf("%s: a push answers %s, want %d", what, a, push)
			}
		}
	}
	check("at first", http.StatusOK, http.StatusAccepted)
	for i := range 4 {
		g.reconfigure(g.config("", mayNot), reloaded)
		check(fmt.Sprintf("refused, time %d", i), http.StatusNotFound, http.StatusForbidden)
		g.reconfigure(g.config("", may), reloaded)
		check(fmt.Sprintf("allowed, time %d", i), http.StatusOK, http.StatusAccepted)
	}
	g.reconfigure(g.config("", mayNot+"\n"+may), reloaded)
	for name, yaml := range map[string]string{
		"no policy":       "log: {level: debug, format: json}\n",
		"an empty policy": "policy: []\n",
		"an empty file":   "",
		"no YAML":         "policy: [{",
		"half a file":     g.config("", may)[:len(g.config("", may))-20],
		"no action":       g.config("", `- {who: [alice], repos: ["team/**"], may: [read]}`),
		"both":            g.config("", `- {who: [alice], repos: ["team/**"], may: [pull], may_not: [push]}`),
		"neither":         g.config("", `- {who: [alice], repos: ["team/**"]}`),
		"nobody":          g.config("", `- {repos: ["team/**"], may: [pull]}`),
		"no pattern":      g.config("", `- {who: [alice], repos: ["Team/**"], may: [pull]}`),
		"a typing error":  g.config("", `- {who: [alice], repo: ["team/**"], may: [pull]}`),
		"a wrong limit":   g.config("limits: {blob: lots}", may),
		"a wrong pattern": g.config(`immutable: ["v*:"]`, may),
	} {
		g.reconfigure(yaml, notReloaded)
		check(name, http.StatusNotFound, http.StatusForbidden)
	}
	stop.Store(true)
	others.Wait()
	// What is in force is what a restart reads.
	g.Stop()
	g.Configure(g.config("", may))
	g.Restart()
	check("after a restart", http.StatusOK, http.StatusAccepted)
}

// TestAccessImmutable has tags that are made once: by whoever comes first, and
// whatever rights those have who come later.
func TestAccessImmutable(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, berthtest.Options{}, `immutable: ["team/**:v*", "fixed/app:*"]`, "")
	f := &matrixFixture{g: g, blob: []byte("{}")}
	for _, repo := range []string{"team/web", "fixed/app", "other/app"} {
		f.push(repo, f.blob)
	}
	put := func(repo, ref string, manifest []byte) answer {
		return must(g.wire.do("PUT", "/v2/"+repo+"/manifests/"+ref, bytes.NewReader(manifest), append([]string{"Content-Type", ociManifest}, g.root...)...))(t)
	}
	refused := func(what string, a answer) {
		t.Helper()
		if a.status != http.StatusForbidden || !bytes.Contains(a.body, []byte(`"DENIED"`)) {
			t.Errorf("%s: %s: want 403 DENIED", what, a)
		}
	}
	remove := func(repo, ref string) answer {
		return must(g.wire.do("DELETE", "/v2/"+repo+"/manifests/"+ref, nil, g.root...))(t)
	}
	old, next := f.freshManifest(), f.freshManifest()
	d, nextD := digest.FromBytes(old).String(), digest.FromBytes(next).String()
	for _, name := range []string{"team/web:v1", "fixed/app:latest"} {
		repo, tag, _ := strings.Cut(name, ":")
		f.tag(repo, tag, old)
		f.tag(repo, tag, old) // the same again is no move
		f.tag(repo, nextD, next)
		refused("move "+name, put(repo, tag, next))
		refused("move "+name+" by a push by digest", put(repo, nextD+"?tag="+tag, next))
		refused("move "+name+" beside another tag", put(repo, nextD+"?tag=v999&tag="+tag, next))
		refused("remove "+name, remove(repo, tag))
		refused("remove what "+name+" names", remove(repo, d))
		if a := g.send(g.root, http.StatusOK, "GET", "/v2/"+repo+"/manifests/"+tag, nil); !bytes.Equal(a.body, old) {
			t.Errorf("%s is %s now", name, a.body)
		}
		g.send(g.root, http.StatusNotFound, "GET", "/v2/"+repo+"/manifests/v999", nil)
		g.send(g.root, http.StatusAccepted, "DELETE", "/v2/"+repo+"/manifests/"+nextD, nil)
	}
	for _, name := range []string{"team/web:latest", "other/app:v1"} { // no pattern is about these
		repo, tag, _ := strings.Cut(name, ":")
		f.tag(repo, tag, old)
		f.tag(repo, tag, next)
		g.send(g.root, http.StatusAccepted, "DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
	}

	var created, denied atomic.Int64
	var pushers sync.WaitGroup
	for range 16 {
		m := f.freshManifest()
		pushers.Go(func() {
			a, err := g.wire.do("PUT", "/v2/team/web/manifests/v2", bytes.NewReader(m), append([]string{"Content-Type", ociManifest}, g.root...)...)
			switch {
			case err == nil && a.status == http.StatusCreated:
				created.Add(1)
			case err == nil && a.status == http.StatusForbidden:
				denied.Add(1)
			default:
				t.Errorf("one of many: %s: %v", a, err)
			}
		})
	}
	pushers.Wait()
	if created.Load() != 1 || denied.Load() != 15 {
		t.Errorf("%d of 16 have created the tag, %d were refused", created.Load(), denied.Load())
	}
	g.reconfigure(g.config("immutable: []", ""), reloaded)
	g.send(g.root, http.StatusAccepted, "DELETE", "/v2/team/web/manifests/v1", nil)
}

// TestAccessLimits sends more than the registry takes.
func TestAccessLimits(t *testing.T) {
	t.Parallel()
	const policy = `- {who: [authenticated], repos: ["team/**"], may: [pull, push]}`
	g := startGuarded(t, berthtest.Options{}, "limits: {blob: 10k, manifest: 2k}", policy)
	f := &matrixFixture{g: g, blob: []byte("{}")}
	f.push("team/web", f.blob)
	fits := randomBytes(1, 10_000)
	f.push("team/web", fits)

	// Whoever says that a blob will be too large is told so before it is sent.
	d := digest.FromString("never sent").String()
	location := g.send(g.root, http.StatusAccepted, "POST", "/v2/team/web/blobs/uploads/", nil).header.Get("Location")
	for name, line := range map[string]string{
		"POST": "POST /v2/team/web/blobs/uploads/?digest=" + d, "PATCH": "PATCH " + location, "PUT": "PUT " + location + "?digest=" + d,
		"manifest": "PUT /v2/team/web/manifests/v1",
	} {
		a := sayAndWait(t, g.Addr, fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\nExpect: 100-continue\r\nContent-Type: %s\r\nContent-Length: 1000000000\r\n\r\n",
			line, g.root[0], g.root[1], ociManifest))
		if a.status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s of 1 GB: %s: want 413", name, a)
		} else if err := a.clear(); err != nil {
			t.Errorf("%s of 1 GB: %v", name, err)
		}
	}
	// Who does not say is told when it is too much, in one piece or in several.
	large := randomBytes(2, 20<<10)
	d = digest.FromBytes(large).String()
	unsaid := func() io.Reader { return io.MultiReader(bytes.NewReader(large)) }
	for name, a := range map[string]answer{
		"POST":     must(g.wire.do("POST", "/v2/team/web/blobs/uploads/?digest="+d, unsaid(), g.root...))(t),
		"PATCH":    must(g.wire.do("PATCH", location, unsaid(), g.root...))(t),
		"manifest": must(g.wire.do("PUT", "/v2/team/web/manifests/v1", strings.NewReader(strings.Repeat(" ", 3<<10)), append([]string{"Content-Type", ociManifest}, g.root...)...))(t),
	} {
		if a.status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s of 20 KiB: %s: want 413", name, a)
		}
	}
	location = g.send(g.root, http.StatusAccepted, "POST", "/v2/team/web/blobs/uploads/", nil).header.Get("Location")
	g.send(g.root, http.StatusAccepted, "PATCH", location, large[:8<<10])
	if a := must(g.wire.do("PATCH", location, bytes.NewReader(large[8<<10:]), g.root...))(t); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("the second piece of what is too large: %s", a)
	}
	g.send(g.root, http.StatusNotFound, "GET", "/v2/team/web/blobs/"+d, nil)
	f.tag("team/web", "v1", imageManifest(f.blob))

	g.reconfigure(g.config("limits: {requests: 0.01, burst: 20}", policy), reloaded)
	alice := g.basic("alice", g.user("alice"))
	for name, ask := range map[string]func() answer{
		"an account": func() answer { return must(g.wire.do("GET", "/v2/team/web/manifests/v1", nil, alice...))(t) },
		"nobody":     func() answer { return must(g.wire.do("GET", "/v2/team/web/manifests/v1", nil))(t) },
	} {
		var a answer
		n := 0
		for ; n < 200 && a.status != http.StatusTooManyRequests; n++ {
			a = ask()
		}
		if n < 15 || n > 40 || a.header.Get("Retry-After") == "" || a.clear() != nil {
			t.Errorf("%s: after %d requests %s, Retry-After %q", name, n, a, a.header.Get("Retry-After"))
		}
	}
	g.send(g.root, http.StatusOK, "GET", "/v2/team/web/manifests/v1", nil) // root has requests left
	g.reconfigure(g.config("", policy), reloaded)
	g.send(alice, http.StatusOK, "GET", "/v2/team/web/manifests/v1", nil)
}

// sayAndWait sends the head of a request, nothing of its body, and reads the answer.
func sayAndWait(t *testing.T, addr, head string) answer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, head); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("%.60q: %v", head, err)
		return answer{}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("%.60q: %v", head, err)
	}
	return answer{res.StatusCode, res.Header, body}
}

// TestAccessHtpasswd changes the password file while the server runs.
func TestAccessHtpasswd(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "htpasswd")
	line := func(account, password string) string {
		return strings.TrimSpace(berthtest.NewCommand(t, "htpasswd").Input(password).Run("-niB", account)) + "\n"
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second := "pw-"+rand.Text(), "pw-"+rand.Text()
	hatter, hare := line("hatter", first), line("hare", first)
	write(hatter)
	config, policy := "auth: {htpasswd: {file: "+file+"}}", `- {who: [hatter, hare], repos: ["tea/**"], may: [pull, push]}`
	g := startGuarded(t, berthtest.Options{}, config, policy)
	status := func(header []string) int {
		return must(g.wire.do("POST", "/v2/tea/pot/blobs/uploads/", nil, header...))(t).status
	}
	old, fresh, other := g.basic("hatter", first), g.basic("hatter", second), g.basic("hare", first)
	expect := func(what string, header []string, want int) {
		t.Helper()
		if got := status(header); got != want {
			t.Errorf("%s: status %d, want %d", what, got, want)
		}
	}
	expect("the password", old, http.StatusAccepted)
	expect("no such account", other, http.StatusUnauthorized)
	got := g.token(old, "repository:tea/pot:pull,push")
	token := g.bearer(got.Token)

	const read, wrong = `"msg":"the password file was read"`, `"msg":"the password file is wrong`
	change := func(text, logged string) {
		t.Helper()
		before := strings.Count(g.Log(), logged)
		write(text)
		waitFor(t, logged, func() bool { return strings.Count(g.Log(), logged) > before })
	}
	change(hatter+hare, read)
	expect("the first of two", old, http.StatusAccepted)
	expect("one more account", other, http.StatusAccepted)
	expect("a token from before", token, http.StatusAccepted)

	// What is half written leaves what was last whole in force, whether the server
	// finds it by itself or is told to look.
	both := hatter + hare
	change(both[:len(both)-20], wrong)
	expect("beside half a hash", old, http.StatusAccepted)
	expect("half a hash", other, http.StatusAccepted)
	for what, text := range map[string]string{
		"half a name": hatter + "ha", "no hash": hatter + "hare:\n", "another hash": hatter + "hare:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n",
		"plain text": hatter + "hare:password\n", "a NUL": hatter + "hare:\x00\n", "twice": hatter + hatter, "nothing": "",
	} {
		write(text)
		g.reconfigure(g.config(config, policy), `"msg":"not read again`)
		expect(what+": the first", old, http.StatusAccepted)
		expect(what+": the second", other, http.StatusAccepted)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "word of the file that is gone", func() bool { return strings.Contains(g.Log(), "no such file") })
	expect("without the file", old, http.StatusAccepted)

	// Another password, by a file that takes the place of the old one.
	temp := file + ".new"
	if err := os.WriteFile(temp, []byte(line("hatter", second)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, file); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "end of the old password", func() bool { return status(old) == http.StatusUnauthorized })
	expect("the new password", fresh, http.StatusAccepted)
	expect("an account that is gone", other, http.StatusUnauthorized)
	expect("the token of the old password", token, http.StatusUnauthorized)
	if a := g.refresh(got.Refresh, "repository:tea/pot:pull"); a.status != http.StatusUnauthorized {
		t.Errorf("the refresh token of the old password: %s", a)
	}
	if strings.Contains(g.Log(), "$2y$") {
		t.Error("the log has a hash in it")
	}
}
