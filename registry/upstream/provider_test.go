package upstream_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/registry/upstream"
)

// signed checks a request's signature (AWS, "Signature Version 4").
func signed(r *http.Request, body []byte, key, region, service string) error {
	auth, is := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !is {
		return fmt.Errorf("Authorization %q", r.Header.Get("Authorization"))
	}
	part := map[string]string{}
	for p := range strings.SplitSeq(auth, ", ") {
		k, v, _ := strings.Cut(p, "=")
		part[k] = v
	}
	date := r.Header.Get("X-Amz-Date")
	scope := strings.Join([]string{date[:8], region, service, "aws4_request"}, "/")
	if part["Credential"] != "AKIDEXAMPLE/"+scope {
		return fmt.Errorf("credential %q", part["Credential"])
	}
	canonical := r.Method + "\n" + r.URL.EscapedPath() + "\n\n"
	for h := range strings.SplitSeq(part["SignedHeaders"], ";") {
		v := r.Header.Get(h)
		if h == "host" {
			v = r.Host
		}
		canonical += h + ":" + v + "\n"
	}
	canonical += "\n" + part["SignedHeaders"] + "\n" + sum(body)
	mac := []byte("AWS4" + key)
	for _, s := range []string{date[:8], region, service, "aws4_request", "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + sum([]byte(canonical))} {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(s))
		mac = h.Sum(nil)
	}
	if part["Signature"] != hex.EncodeToString(mac) || !strings.Contains(part["SignedHeaders"], "x-amz-target") {
		return fmt.Errorf("signature %q of %q", part["Signature"], canonical)
	}
	return nil
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// The service is one of the test's own, made after Amazon's documentation; what
// is asked of it, and signed, is what AWS wants.
func TestECR(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key-"+secret)
	t.Setenv("AWS_SESSION_TOKEN", "")
	ca := berthtest.NewCA(t)
	for host, want := range map[string]struct{ target, region, service, shape string }{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com": {
			"AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken", "eu-west-1", "ecr",
			`{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d.123,"proxyEndpoint":"https://x"}]}`,
		},
		"public.ecr.aws": {
			"SpencerFrontendService.GetAuthorizationToken", "us-east-1", "ecr-public",
			`{"authorizationData":{"authorizationToken":%q,"expiresAt":%d}}`,
		},
	} {
		t.Run(host, func(t *testing.T) {
			password, asked := secret, 0
			var c clock
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				body, _ := io.ReadAll(r.Body)
				err := signed(r, body, "key-"+secret, want.region, want.service)
				if err != nil || r.Header.Get("X-Amz-Target") != want.target || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || string(body) != "{}" {
					t.Errorf("asked for %s: %v", r.Header.Get("X-Amz-Target"), err)
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				token := base64.StdEncoding.EncodeToString([]byte("AWS:" + password))
				fmt.Fprintf(w, want.shape, token, c.now().Add(12*time.Hour).Unix())
			}))
			defer service.Close()
			w := newWorld(t)
			basicOnly(w, &password, http.StatusForbidden)
			u := behind(t, ca, w, host, upstream.Options{Provider: "ecr", Now: c.now}, upstream.At{AWS: service.URL + "/"})
			for range 3 {
				ok(t, stat(t, u))
			}
			if asked != 1 {
				t.Errorf("asked %d times, want once", asked)
			}
			password = "another"
			c.pass(12 * time.Hour)
			upstream.Age(u, 12*time.Hour)
			ok(t, stat(t, u))
			if asked != 2 {
				t.Errorf("asked %d times, want once more", asked)
			}
		})
	}
}

// behind is an upstream that has a name of the Internet, and is a world behind a
// proxy of CONNECT.
func behind(t *testing.T, ca *berthtest.CA, w *world, host string, o upstream.Options, at upstream.At) *upstream.Upstream {
	t.Helper()
	server := secure(t, ca, w.front, host)
	o.Name, o.URL, o.CAFile, o.Proxy = "hub", "https://"+host, ca.File, connectProxy(t, server.Listener.Addr().String())
	u, err := upstream.NewAt(o, at)
	ok(t, err)
	t.Cleanup(u.Close)
	return u
}

func TestECRWithoutKeys(t *testing.T) {
	for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_PROFILE"} {
		t.Setenv(k, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	metadata := httptest.NewServer(http.NotFoundHandler()) // of a container without a role
	defer metadata.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", metadata.URL+"/role")
	ca := berthtest.NewCA(t)
	w := newWorld(t)
	password := secret
	basicOnly(w, &password, http.StatusUnauthorized)
	u := behind(t, ca, w, "public.ecr.aws", upstream.Options{Provider: "ecr", Retries: -1}, upstream.At{})
	if e := unavailable(t, stat(t, u)); !strings.Contains(e.Reason, "found no keys of AWS") {
		t.Errorf("got %+v", e)
	}
}

// The token server is the test's own, made after Google's documentation of service
// accounts; the library that asks it is Google's.
func TestGCR(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ok(t, err)
	asked := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		var claims struct {
			jwt.Claims

			Scope string `json:"scope"`
		}
		token, err := jwt.ParseSigned(r.FormValue("assertion"), []jose.SignatureAlgorithm{jose.RS256})
		if err == nil {
			err = token.Claims(&key.PublicKey, &claims)
		}
		if err != nil || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || claims.Issuer != "berth@test.iam" ||
			claims.Scope != "https://www.googleapis.com/auth/cloud-platform" {
			t.Errorf("asked with %+v: %v", claims, err)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, "ya29."+secret)
	}))
	defer service.Close()
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "berth@test.iam", "private_key_id": "1", "token_uri": service.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	ok(t, err)
	file := filepath.Join(t.TempDir(), "account.json")
	ok(t, os.WriteFile(file, account, 0o600))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	w := newWorld(t)
	w.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "oauth2accesstoken" && pass == "ya29."+secret {
			return false
		}
		return always(http.StatusUnauthorized, map[string]string{"Www-Authenticate": `Basic realm="x"`}, "")(rw, r)
	})
	u := dial(t, upstream.Options{URL: w.url, Provider: "gcr"})
	for range 3 {
		ok(t, stat(t, u))
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	ok(t, os.WriteFile(file, []byte(`{"type":"service_account","private_key":"`+secret+`"`), 0o600))
	err = stat(t, dial(t, upstream.Options{URL: w.url, Provider: "gcr", Retries: -1}))
	if e := unavailable(t, err); !strings.Contains(e.Reason, "application default credentials") || strings.Contains(err.Error(), secret) {
		t.Errorf("a file that is not valid: error %v", err)
	}
}

// entra is Entra ID, a machine's metadata, and a registry's exchange, after
// Microsoft's documentation.
type entra struct {
	t     *testing.T
	way   string
	asked []string
}

func (e *entra) answer(w http.ResponseWriter, r *http.Request) bool {
	e.asked = append(e.asked, r.Method+" "+r.URL.Path)
	bad := ""
	switch r.URL.Path {
	case "/tenant-1/oauth2/v2.0/token":
		if r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_id") != "client-1" || r.FormValue("scope") != "https://containerregistry.azure.net/.default" {
			bad = "token"
		}
		if e.way == "secret" && r.FormValue("client_secret") != secret || e.way == "workload" &&
			(r.FormValue("client_assertion") != "assertion-1" || r.FormValue("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer") {
			bad = e.way
		}
		_, _ = io.WriteString(w, `{"token_type":"Bearer","expires_in":3599,"access_token":"aad-`+secret+`"}`)
	case "/metadata/identity/oauth2/token":
		q := r.URL.Query()
		if r.Header.Get("Metadata") != "true" || q.Get("api-version") != "2018-02-01" || q.Get("resource") != "https://containerregistry.azure.net/" {
			bad = "metadata"
		}
		_, _ = io.WriteString(w, `{"access_token":"aad-`+secret+`","expires_in":"3599","token_type":"Bearer"}`)
	case "/oauth2/exchange":
		if r.FormValue("grant_type") != "access_token" || r.FormValue("access_token") != "aad-"+secret || r.FormValue("service") != r.Host {
			bad = "exchange"
		}
		exp := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(3*time.Hour).Unix()))
		_, _ = io.WriteString(w, `{"refresh_token":"e30.`+exp+`.c2ln"}`)
	case "/oauth2/token":
		if r.FormValue("grant_type") != "refresh_token" || !strings.HasPrefix(r.FormValue("refresh_token"), "e30.") {
			bad = "refresh"
		}
		_, _ = io.WriteString(w, `{"access_token":"acr-`+secret+`"}`)
	default:
		if r.Header.Get("Authorization") == "Bearer acr-"+secret {
			return false
		}
		return always(http.StatusUnauthorized, map[string]string{
			"Www-Authenticate": `Bearer realm="http://` + r.Host + `/oauth2/token",service="` + r.Host + `"`,
		}, "")(w, r)
	}
	if bad != "" {
		e.t.Errorf("%s: asked with %v", bad, r.Form)
	}
	return true
}

func TestACR(t *testing.T) {
	assertion := filepath.Join(t.TempDir(), "assertion")
	ok(t, os.WriteFile(assertion, []byte("assertion-1\n"), 0o600))
	for way, env := range map[string]map[string]string{
		"secret":   {"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": secret},
		"workload": {"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_FEDERATED_TOKEN_FILE": assertion},
		"machine":  {},
	} {
		t.Run(way, func(t *testing.T) {
			for _, k := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"} {
				t.Setenv(k, env[k])
			}
			w := newWorld(t)
			e := &entra{t: t, way: way}
			w.answers(e.answer)
			u, err := upstream.NewAt(upstream.Options{Name: "hub", URL: w.url, Provider: "acr"}, upstream.At{AzureLogin: w.url, AzureIdentity: w.url})
			ok(t, err)
			t.Cleanup(u.Close)
			for range 3 {
				ok(t, stat(t, u))
			}
			first := "POST /tenant-1/oauth2/v2.0/token"
			if way == "machine" {
				first = "GET /metadata/identity/oauth2/token"
			}
			const head = "HEAD /v2/library/app/manifests/v1"
			same(t, way, e.asked, []string{head, first, "POST /oauth2/exchange", "POST /oauth2/token", head, head, head})
		})
	}
}

func TestProvidersThatAreDown(t *testing.T) {
	for _, k := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(k, "x-"+secret)
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"refused":     always(http.StatusUnauthorized, nil, `{"error_description":"`+secret+`"}`),
		"broken":      always(http.StatusInternalServerError, nil, secret),
		"no JSON":     always(http.StatusOK, nil, secret),
		"nothing":     always(http.StatusOK, nil, "{}"),
		"without end": always(http.StatusOK, nil, strings.Repeat(" ", 1<<20)),
		"redirect":    always(http.StatusTemporaryRedirect, map[string]string{"Location": "http://127.0.0.1:1/" + secret}, ""),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e := &entra{t: t}
			w.answers(func(rw http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") {
					return answer(rw, r)
				}
				return e.answer(rw, r)
			})
			u, err := upstream.NewAt(upstream.Options{Name: "hub", URL: w.url, Provider: "acr", Retries: -1}, upstream.At{AzureLogin: w.url})
			ok(t, err)
			t.Cleanup(u.Close)
			err = stat(t, u)
			if got := unavailable(t, err); !strings.Contains(got.Reason, "credentials cannot be had: Azure") || strings.Contains(err.Error(), secret) || got.Denied {
				t.Errorf("got error %v", err)
			}
		})
	}
}
