package berthtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"html"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// IDP is an OpenID Connect provider: the program of e2e/idp, a process on a
// loopback address. It signs people in with a user name and a password, and signs
// ID tokens for jobs as GitHub Actions does. What it says of itself it says with
// real signatures over real HTTP.
//
//	idp := berthtest.StartIDP(t)
//	// Configure the registry with idp.Issuer, idp.ClientID and idp.Secret; then
//	page := idp.SignIn(browser, registry+"/oidc/test", berthtest.Alice)
//	token := idp.Token(map[string]any{"aud": "berth", "sub": "repo:acme/web:ref:refs/heads/main"})
//
// Every user has the password IDPPassword.
type IDP struct {
	Issuer   string // URL
	ClientID string
	Secret   string // of the client
	CA       string // file with the certificate that signs the provider's; empty without TLS

	tb     testing.TB
	dir    string
	args   []string
	client *http.Client
	stop   func(os.Signal) int // nil if it does not run
}

// The users of an IDP, by their user names.
const (
	// Alice has the subject id-alice and the verified e-mail address
	// Alice@example.com, and is in the groups developers and admins.
	Alice = "alice"
	// Bob has the subject id-bob and an e-mail address that is not verified:
	// alice@example.com, and is in no group.
	Bob = "bob"
	// Mallory has the subject "id mallory/<b>", which no account can be named
	// after, and no e-mail address.
	Mallory = "mallory"
)

// IDPPassword is the password of each user of an IDP.
const IDPPassword = "correct horse battery staple"

const idpUsers = `[
	{"ID": "id-alice", "Username": "alice", "Password": "` + IDPPassword + `", "FirstName": "Alice", "LastName": "Liddell",
	 "Email": "Alice@example.com", "EmailVerified": true, "Groups": ["developers", "admins"]},
	{"ID": "id-bob", "Username": "bob", "Password": "` + IDPPassword + `", "FirstName": "Bob", "LastName": "B.",
	 "Email": "alice@example.com", "EmailVerified": false},
	{"ID": "id mallory/<b>", "Username": "mallory", "Password": "` + IDPPassword + `", "FirstName": "<b>M", "LastName": ""}
]`

// StartIDP starts a provider on http, and stops it with the test.
func StartIDP(tb testing.TB) *IDP {
	tb.Helper()
	return startIDP(tb, "http")
}

// StartTLSIDP starts a provider on https, with a certificate of its own.
func StartTLSIDP(tb testing.TB) *IDP {
	tb.Helper()
	return startIDP(tb, "https")
}

func startIDP(tb testing.TB, scheme string) *IDP {
	tb.Helper()
	addr := freeaddr.For(tb)
	dir := tb.TempDir()
	p := &IDP{
		Issuer: scheme + "://" + addr, ClientID: "berth", Secret: "secret-of-" + rand.Text(),
		tb: tb, dir: dir, client: &http.Client{Timeout: time.Minute},
	}
	users := filepath.Join(dir, "users.json")
	if err := os.WriteFile(users, []byte(idpUsers), 0o600); err != nil {
		tb.Fatal(err)
	}
	p.args = []string{
		"-addr", addr, "-issuer", p.Issuer, "-users", users, "-key", p.keyFile(),
		"-client-id", p.ClientID, "-client-secret", p.Secret,
	}
	if scheme == "https" {
		p.CA = filepath.Join(dir, "cert.pem")
		key := filepath.Join(dir, "key.pem")
		p.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: writeCertificate(tb, p.CA, key)}}
		p.args = append(p.args, "-tls-cert", p.CA, "-tls-key", key)
	}
	tb.Cleanup(p.client.CloseIdleConnections)
	p.Start()
	return p
}

func (p *IDP) keyFile() string { return filepath.Join(p.dir, "signer") }

// Start starts a provider that was stopped: with the same address and key.
func (p *IDP) Start() {
	p.tb.Helper()
	p.stop = NewCommand(p.tb, "idp").Service(func(log string) error {
		if !strings.Contains(log, "ready\n") {
			return errors.New("it does not listen")
		}
		return nil
	}, p.args...)
}

// Stop stops the provider.
func (p *IDP) Stop() {
	p.tb.Helper()
	p.client.CloseIdleConnections()
	if code := p.stop(syscall.SIGTERM); code != 0 {
		p.tb.Errorf("the identity provider ended with exit code %d", code)
	}
}

// Rotate restarts the provider with another key; the old one is gone.
func (p *IDP) Rotate() {
	p.tb.Helper()
	p.Stop()
	if err := os.Remove(p.keyFile()); err != nil {
		p.tb.Fatal(err)
	}
	p.Start()
}

// Transport is for clients that come to the provider: it knows its CA.
func (p *IDP) Transport() http.RoundTripper { return p.client.Transport }

// SigningKey is the key that the provider signs with now, for tokens that it would
// never sign itself.
func (p *IDP) SigningKey() *rsa.PrivateKey {
	p.tb.Helper()
	der, err := os.ReadFile(p.keyFile())
	if err != nil {
		p.tb.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		p.tb.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// Token returns an ID token with the claims. Issuer, iat, nbf and exp (in ten
// minutes) are set unless the claims have them; a claim that is nil is left out.
func (p *IDP) Token(claims map[string]any) string {
	p.tb.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		p.tb.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, p.Issuer+"/workload/token", bytes.NewReader(body))
	if err != nil {
		p.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Secret)
	resp, err := p.client.Do(req)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer resp.Body.Close()
	var token struct{ Value string }
	if err := json.NewDecoder(resp.Body).Decode(&token); err != nil || resp.StatusCode != http.StatusOK {
		p.tb.Fatalf("get an ID token: %s, %v", resp.Status, err)
	}
	return token.Value
}

// GitHubClaims are claims like those of a job of GitHub Actions in a repository,
// on a ref such as refs/heads/main, for an audience.
func GitHubClaims(audience, repository, ref string) map[string]any {
	owner, _, _ := strings.Cut(repository, "/")
	return map[string]any{
		"aud": audience, "sub": "repo:" + repository + ":ref:" + ref, "jti": rand.Text(),
		"repository": repository, "repository_owner": owner, "repository_id": "74", "repository_visibility": "private",
		"ref": ref, "ref_type": "branch", "ref_protected": "true", "sha": strings.Repeat("a", 40),
		"environment": "production", "actor": "octocat", "actor_id": "12", "event_name": "push", "workflow": "release",
		"workflow_ref":     repository + "/.github/workflows/release.yml@" + ref,
		"job_workflow_ref": repository + "/.github/workflows/release.yml@" + ref,
		"run_id":           "12345678901234567", "run_number": "10", "run_attempt": "2", "runner_environment": "github-hosted",
	}
}

// GitLabClaims are claims like those of a job of GitLab in a project, on a branch.
func GitLabClaims(audience, project, branch string, protected bool) map[string]any {
	namespace, _, _ := strings.Cut(project, "/")
	protection := map[bool]string{true: "true", false: "false"}[protected]
	return map[string]any{
		"aud": audience, "sub": "project_path:" + project + ":ref_type:branch:ref:" + branch, "jti": rand.Text(),
		"namespace_path": namespace, "project_path": project, "project_id": "22", "pipeline_source": "push",
		"ref": branch, "ref_type": "branch", "ref_protected": protection, "ref_path": "refs/heads/" + branch,
		"user_login": "sidney", "user_access_level": "developer", "user_identities": []any{map[string]any{"provider": "github", "extern_uid": "2"}},
	}
}

// Page is an HTML page that a browser of a test came to.
type Page struct {
	URL    *url.URL
	Status int
	Header http.Header
	Body   string
}

var hiddenID = regexp.MustCompile(`name="id" value="([^"]*)"`)

// SignIn has a browser, a client with a cookie jar, open a URL that leads to the
// provider's form, fills the form in for the user, and returns the page that it
// comes to in the end. The browser's Transport must know the CA of the provider
// and of the registry if they are on https.
func (p *IDP) SignIn(browser *http.Client, start, user string) *Page {
	p.tb.Helper()
	form := p.get(browser, start)
	id := hiddenID.FindStringSubmatch(form.Body)
	if id == nil || !strings.HasPrefix(form.URL.String(), p.Issuer) {
		p.tb.Fatalf("%s leads to no form of the provider, but to %s: %d\n%s", start, form.URL, form.Status, form.Body)
	}
	resp, err := browser.PostForm(p.Issuer+"/login/username", url.Values{
		"id": {html.UnescapeString(id[1])}, "username": {user}, "password": {IDPPassword},
	})
	return p.page(resp, err)
}

func (p *IDP) get(browser *http.Client, url string) *Page {
	p.tb.Helper()
	resp, err := browser.Get(url)
	return p.page(resp, err)
}

func (p *IDP) page(resp *http.Response, err error) *Page {
	p.tb.Helper()
	if err != nil {
		p.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.tb.Fatal(err)
	}
	return &Page{URL: resp.Request.URL, Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

// writeCertificate makes a certificate for loopback that signs itself, writes it
// and its key to files, and returns it as an authority.
func writeCertificate(tb testing.TB, cert, key string) *x509.CertPool {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "identity provider"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}
