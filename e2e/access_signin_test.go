package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// signInConfig has a provider for people and for jobs, whose URL, client and
// authority take the place of the words in capitals.
const signInConfig = `
auth:
  oidc:
    test: {issuer: ISSUER, client_id: CLIENT, client_secret: SECRET, ca: CA}
  workload:
    github:
      issuer: ISSUER
      ca: CA
      audience: registry.test
      claims: ["repository=acme/*", "ref=refs/heads/main"]
      account: ci/{repository}
      groups: [jobs]
    gitlab:
      issuer: ISSUER
      ca: CA
      audience: registry.test
      claims: ["project_path=acme/*", "ref_protected=true"]
      account: gitlab/{project_path}
policy:
- {who: ["group:admins"], repos: ["team/**"], may: [pull, push]}
- {who: ["group:jobs"], repos: ["acme/**"], may: [pull, push]}
- {who: ["claim:project_path=acme/*"], repos: ["lab/**"], may: [pull, push]}
audit: {output: stdout}
`

// site is a registry with a real identity provider, and a client of it.
type site struct {
	*berthtest.Server
	idp    *berthtest.IDP
	skopeo *berthtest.Command
	source string // image to push
}

func newSite(t *testing.T) *site {
	t.Helper()
	idp := berthtest.StartTLSIDP(t)
	config := strings.NewReplacer("ISSUER", idp.Issuer, "CLIENT", idp.ClientID, "SECRET", idp.Secret, "CA", idp.CA).Replace(signInConfig)
	s := &site{Server: berthtest.Start(t, berthtest.Options{Config: config}), idp: idp}
	t.Cleanup(func() { noSecrets(t, s.Log(), idp.Secret, berthtest.IDPPassword) })
	s.skopeo = skopeoAt(t)
	source, _ := sampleImage(t)
	s.source = "oci:" + source.dir + ":latest"
	return s
}

// skopeoAt is skopeo with a file of credentials of its own.
func skopeoAt(t *testing.T) *berthtest.Command {
	t.Helper()
	return berthtest.NewCommand(t, "skopeo").Env("REGISTRY_AUTH_FILE=" + writeFile(t, t.TempDir(), "auth.json", []byte("{}")))
}

func (s *site) repo(name string) string { return "docker://" + s.Addr + "/" + name }

func (s *site) login(user, password string) {
	s.skopeo.Input(password+"\n").Run("login", "--tls-verify=false", s.Addr, "-u", user, "--password-stdin")
}

func (s *site) push(name string) {
	s.skopeo.Run("copy", "--dest-tls-verify=false", s.source, s.repo(name))
}

// browser is somebody's browser, which trusts the provider.
func (s *site) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Transport: s.idp.Transport(), Timeout: time.Minute}
}

var (
	shownKey  = regexp.MustCompile(`class="secret"><code>(berth_([a-z0-9]+)_[^<]+)<`)
	shownUser = regexp.MustCompile(`docker login \S+ -u (\S+) --password-stdin`)
)

// createKey fills in the form for a key as a browser does, and returns the user
// name and the key that the page shows, and the key's id.
func (s *site) createKey(t *testing.T, browser *http.Client, repos string) (user, key, id string) {
	t.Helper()
	res, err := browser.PostForm(s.URL+"/tokens", url.Values{
		"note": {"of a test"}, "repos": {repos}, "pull": {"on"}, "push": {"on"}, "days": {"7"},
	})
	page := body(t, res, err)
	found, as := shownKey.FindStringSubmatch(page), shownUser.FindStringSubmatch(page)
	if found == nil || as == nil {
		t.Fatalf("the page shows no key: %s\n%s", res.Status, page)
	}
	return html.UnescapeString(as[1]), found[1], found[2]
}

func body(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestSignIn has people sign in at a provider, get a key on the registry's pages,
// and push with it, through outages of the provider and a restart of the registry.
func TestSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.browser(t)
	s.idp.SignIn(alice, s.URL+"/oidc/test", berthtest.Alice)
	user, key, id := s.createKey(t, alice, "team/** acme/**")
	if user != "test/alice@example.com" {
		t.Errorf("the page says that alice is %s", user)
	}
	s.login(user, key)
	s.push("team/web:v1")
	// The key is for it; she may not.
	mustRefuse(t, s.skopeo, "may not push to repository acme/web", "copy", "--dest-tls-verify=false", s.source, s.repo("acme/web:v1"))

	// Somebody in no group may not, whatever the key says. That the address of his
	// e-mail is hers, unverified, helps him nothing.
	bob := s.browser(t)
	s.idp.SignIn(bob, s.URL+"/oidc/test", berthtest.Bob)
	user, bobsKey, _ := s.createKey(t, bob, "**")
	s.login(user, bobsKey)
	mustRefuse(t, s.skopeo, "may not push to repository team/web", "copy", "--dest-tls-verify=false", s.source, s.repo("team/web:v2"))
	mustRefuse(t, s.skopeo, "unknown", "inspect", "--tls-verify=false", s.repo("team/web:v1"))

	// Without the provider, and after a restart: her key goes on, and nobody new
	// signs in until the provider is back, with another key.
	s.idp.Stop()
	s.Stop()
	s.Restart()
	s.login("test/alice@example.com", key)
	s.push("team/web:v2")
	carol := s.browser(t)
	res, err := carol.Get(s.URL + "/oidc/test")
	if page := body(t, res, err); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(page, "cannot be reached") {
		t.Errorf("without the provider the page says %s\n%s", res.Status, page)
	}
	s.idp.Start()
	s.idp.Rotate()
	waitFor(t, "form of the provider, which is back", func() bool {
		res, err := carol.Get(s.URL + "/oidc/test")
		return strings.Contains(body(t, res, err), `name="password"`)
	})
	if page := s.idp.SignIn(carol, s.URL+"/oidc/test", berthtest.Alice); !strings.Contains(page.Body, "berth_"+id+"_…") {
		t.Errorf("alice does not find her key in another browser: %s", page.Body)
	}

	// Bob cannot revoke it; she can, and it ends at once.
	s.revoke(t, bob, id)
	s.skopeo.Run("inspect", "--tls-verify=false", s.repo("team/web:v1"))
	s.revoke(t, carol, id)
	mustRefuse(t, s.skopeo, "unauthorized|wrong password|invalid username/password", "inspect", "--tls-verify=false", s.repo("team/web:v1"))
	noSecrets(t, s.Log(), key, bobsKey, "code=")
	s.Stop() // what it has logged is there then
	for line := range strings.Lines(s.Log()) {
		e := decode[struct{ Event, Request, Subject string }](t, line)
		if e.Event != "" && !strings.Contains(s.Log(), `"msg":"request","id":"`+e.Request+`"`) {
			t.Errorf("the log has no such request: %s", line)
		}
	}
}

func (s *site) revoke(t *testing.T, browser *http.Client, id string) {
	t.Helper()
	res, err := browser.PostForm(s.URL+"/tokens/"+id+"/revoke", nil)
	body(t, res, err)
}

// TestWorkload has jobs push with the ID tokens of their platform, as a password and
// by a token exchange.
func TestWorkload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const registry, main = "registry.test", "refs/heads/main"
	github := s.idp.Token(berthtest.GitHubClaims(registry, "acme/web", main))
	s.login("github", github)
	s.push("acme/web:v1")
	mustRefuse(t, s.skopeo, "may not push to repository lab/web", "copy", "--dest-tls-verify=false", s.source, s.repo("lab/web:v1"))
	s.login("gitlab", s.idp.Token(berthtest.GitLabClaims(registry, "acme/app", "main", true)))
	s.push("lab/app:v1")
	for _, who := range []string{"ci/acme/web", "gitlab/acme/app"} {
		if !strings.Contains(s.Log(), `"account":"`+who+`"`) {
			t.Errorf("the audit does not know %s", who)
		}
	}

	w := newWire(s.URL)
	token := s.exchange(t, github, "repository:acme/web:pull", http.StatusOK)
	if a, err := w.do("GET", "/v2/acme/web/manifests/v1", nil, "Authorization", "Bearer "+token); err != nil || a.status != http.StatusOK {
		t.Errorf("with a token that was exchanged: %s, %v", a, err)
	}
	a, err := w.do("POST", "/v2/acme/web/blobs/uploads/", nil, "Authorization", "Bearer "+token)
	if err != nil || a.status != http.StatusUnauthorized || !strings.Contains(a.header.Get("WWW-Authenticate"), "insufficient_scope") {
		t.Errorf("beyond its scope: %s %v, %v", a, a.header, err)
	}
	s.refusedJobs(t)

	// Its keys are known: a job can go on while the platform is down.
	s.idp.Stop()
	s.login("github", github)
	s.idp.Start()
	s.idp.Rotate()
	rotated := s.idp.Token(berthtest.GitHubClaims(registry, "acme/web", main))
	waitFor(t, "login by a token of the platform's new key", func() bool {
		_, _, err := s.skopeo.Input(rotated+"\n").Try("login", "--tls-verify=false", s.Addr, "-u", "github", "--password-stdin")
		return err == nil
	})
	noSecrets(t, s.Log(), github, rotated, token)
}

// refusedJobs: tokens that look good and are not.
func (s *site) refusedJobs(t *testing.T) {
	t.Helper()
	const registry, main = "registry.test", "refs/heads/main"
	old := berthtest.GitHubClaims(registry, "acme/web", main)
	old["exp"], old["iat"] = time.Now().Add(-time.Hour).Unix(), time.Now().Add(-2*time.Hour).Unix()
	for name, claims := range map[string]map[string]any{
		"audience":    berthtest.GitHubClaims("another.test", "acme/web", main),
		"owner":       berthtest.GitHubClaims(registry, "evil/web", main),
		"branch":      berthtest.GitHubClaims(registry, "acme/web", "refs/heads/mine"),
		"unprotected": berthtest.GitLabClaims(registry, "acme/app", "mine", false),
		"expired":     old,
	} {
		token := s.idp.Token(claims)
		mustRefuse(t, s.skopeo.Input(token+"\n"), "invalid username/password", "login", "--tls-verify=false", s.Addr, "-u", "job-"+name, "--password-stdin")
		s.exchange(t, token, "repository:acme/web:pull", http.StatusUnauthorized)
	}
}

// exchange exchanges an ID token for a registry's (RFC 8693, section 2.1).
func (s *site) exchange(t *testing.T, token, scope string, want int) string {
	t.Helper()
	res, err := http.PostForm(s.URL+"/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "scope": {scope}, "audience": {"berth"},
		"subject_token": {token}, "subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
	})
	text := body(t, res, err)
	var got struct {
		AccessToken string `json:"access_token"`
		Type        string `json:"issued_token_type"`
		Error       string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || res.StatusCode != want {
		t.Fatalf("exchange: %s, %v\n%s", res.Status, err, text)
	}
	if want == http.StatusOK && (got.AccessToken == "" || got.Type != "urn:ietf:params:oauth:token-type:access_token") || want != http.StatusOK && got.Error != "invalid_grant" {
		t.Errorf("exchange: %s", text)
	}
	return got.AccessToken
}

const slapdConfig = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile DIR/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile CERT
TLSCertificateKeyFile KEY
database mdb
directory DIR/db
maxsize 16777216
suffix "dc=example,dc=org"
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=berth,dc=example,dc=org" read by anonymous auth by * none
`

const slapdTree = `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=berth,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: berth
userPassword: the service's

dn: uid=erin,dc=example,dc=org
objectClass: inetOrgPerson
uid: erin
cn: Erin
sn: E
userPassword: erin's own

dn: uid=frank,dc=example,dc=org
objectClass: inetOrgPerson
uid: frank
cn: Frank
sn: F
userPassword: frank's own

dn: cn=builders,dc=example,dc=org
objectClass: groupOfNames
cn: builders
member: uid=erin,dc=example,dc=org
`

// slapd is OpenLDAP's server on ldaps.
type slapd struct {
	t         *testing.T
	addr, ca  string
	config    string
	terminate func()
}

func startSlapd(t *testing.T) *slapd {
	t.Helper()
	dir, ca := t.TempDir(), berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, dir, "slapd.conf", []byte(strings.NewReplacer("DIR", dir, "CERT", cert, "KEY", key).Replace(slapdConfig)))
	berthtest.NewCommand(t, "slapadd").Run("-f", config, "-l", writeFile(t, dir, "tree.ldif", []byte(slapdTree)))
	s := &slapd{t: t, addr: freeaddr.For(t), ca: ca.File, config: config}
	s.start()
	return s
}

// start starts the server, again perhaps.
func (s *slapd) start() {
	s.t.Helper()
	s.terminate = berthtest.NewCommand(s.t, "slapd").Daemon(func() error {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			err = c.Close()
		}
		return err
	}, "-d", "0", "-h", "ldaps://"+s.addr, "-f", s.config)
}

// TestLDAP has accounts of a directory push by the group that they are in.
func TestLDAP(t *testing.T) {
	t.Parallel()
	directory := startSlapd(t)
	password := writeFile(t, t.TempDir(), "password", []byte("the service's\n"))
	s := &site{skopeo: skopeoAt(t), Server: berthtest.Start(t, berthtest.Options{Config: fmt.Sprintf(`
auth:
  ldap:
    url: ldaps://%s
    ca: %s
    bind_dn: cn=berth,dc=example,dc=org
    bind_password_file: %s
    user_base: dc=example,dc=org
    group_base: dc=example,dc=org
policy:
- {who: ["group:builders"], repos: ["team/**"], may: [pull, push]}
- {who: [authenticated], repos: ["team/**"], may: [pull]}
audit: {output: stdout}
`, directory.addr, directory.ca, password)})}
	source, _ := sampleImage(t)
	s.source = "oci:" + source.dir + ":latest"
	login := []string{"login", "--tls-verify=false", s.Addr, "--password-stdin", "-u"}
	for _, wrong := range []string{"wrong", "frank's own"} {
		mustRefuse(t, s.skopeo.Input(wrong+"\n"), "invalid username/password", append(login, "erin")...)
	}
	s.login("frank", "frank's own")
	mustRefuse(t, s.skopeo, "may not push to repository team/web", "copy", "--dest-tls-verify=false", s.source, s.repo("team/web:v1"))
	s.login("erin", "erin's own")
	s.push("team/web:v1")
	s.login("frank", "frank's own")
	s.skopeo.Run("inspect", "--tls-verify=false", s.repo("team/web:v1"))

	// While the directory is down nobody is told that the password is wrong.
	directory.terminate()
	s.Stop()
	s.Restart()
	_, said, err := s.skopeo.Input("erin's own\n").Try(append(login, "erin")...)
	if err == nil || strings.Contains(said, "invalid username/password") {
		t.Errorf("login without the directory: %v, %s", err, said)
	}
	directory.start()
	waitFor(t, "login of erin", func() bool {
		_, _, err := s.skopeo.Input("erin's own\n").Try(append(login, "erin")...)
		return err == nil
	})
	s.push("team/web:v2")
	noSecrets(t, s.Log(), "erin's own", "frank's own", "the service's")
}
