package remote

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/runner"
)

func TestNobody(t *testing.T) {
	t.Parallel()
	var src contents
	addr := freeaddr.For(t)
	c := client(t, Options{})
	r := c.Repository(named(t, addr+"/x"), nil)
	want := fmt.Sprintf(`Get "http://%s/v2/": dial tcp %s: connect: connection refused`, addr, addr)
	begin := time.Now()
	_, err := r.Resolve(t.Context(), "latest")
	wantError(t, err, nil, want)
	_, err = r.Push(t.Context(), "v1", src.image(t, 10), &src, nil)
	wantError(t, err, nil, want)
	_, err = c.Login(t.Context(), registry.AuthConfig{ServerAddress: addr, Username: "user", Password: "secret"})
	wantError(t, err, nil, want)
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("it took %s to see that nobody is there", d)
	}
}

// passwords is a file of user with the password secret.
func passwords(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, "user:$2y$04$t.dGOTFFH0L/VP9Wv2lXF.49XekUWvt7XhytR/3UwJW2ok9a5dmKG\n")
	return []string{"REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM=x", "REGISTRY_AUTH_HTPASSWD_PATH=" + file}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	s := distribution(t, passwords(t)...)
	c := client(t, Options{})
	var src contents
	image := src.image(t, 1000, 1<<20)
	name := named(t, s.addr+"/private")
	login := func(password string) error {
		resp, err := c.Login(t.Context(), registry.AuthConfig{ServerAddress: s.addr, Username: "user", Password: password})
		if err == nil && (resp.Status != "Login Succeeded" || resp.IdentityToken != "") {
			t.Errorf("login: %+v", resp)
		}
		return err
	}
	if err := login("secret"); err != nil {
		t.Errorf("login: %v", err)
	}
	wantError(t, login("wrong"), runner.ErrUnauthorized, "login attempt to http://"+s.addr+"/v2/ failed with status: 401 Unauthorized")

	_, err := c.Repository(name, nil).Push(t.Context(), "v1", image, &src, nil)
	wantError(t, err, runner.ErrUnauthorized, "no basic auth credentials")
	_, err = c.Repository(name, user("wrong")).Push(t.Context(), "v1", image, &src, nil)
	wantError(t, err, runner.ErrUnauthorized, "unauthorized: authentication required")
	if _, err = c.Repository(name, user("secret")).Push(t.Context(), "v1", image, &src, nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.Repository(name, nil).Resolve(t.Context(), "v1")
	wantError(t, err, runner.ErrUnauthorized, fmt.Sprintf("Head \"http://%s/v2/private/manifests/v1\": no basic auth credentials", s.addr))
	_, err = c.Repository(name, user("wrong")).Resolve(t.Context(), "v1")
	wantError(t, err, runner.ErrUnauthorized, "unauthorized: authentication required")
	src.check(t, c.Repository(name, &registry.AuthConfig{Auth: "dXNlcjpzZWNyZXQ="}), image.Blobs...)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	write(t, dir+"/ca.pem", ca.PEM)
	write(t, dir+"/other.pem", other.PEM)
	cert, key := ca.issue(t, dir, "server")
	s := distribution(t, "REGISTRY_HTTP_TLS_CERTIFICATE="+cert, "REGISTRY_HTTP_TLS_KEY="+key)
	mutual := distribution(t, "REGISTRY_HTTP_TLS_CERTIFICATE="+cert, "REGISTRY_HTTP_TLS_KEY="+key, `REGISTRY_HTTP_TLS_CLIENTCAS=["`+dir+`/ca.pem"]`)

	certs := t.TempDir() // Docker's layout
	write(t, filepath.Join(certs, mutual.addr, "ca.crt"), ca.PEM)
	ca.issue(t, filepath.Join(certs, mutual.addr), "client")
	half := t.TempDir()
	write(t, filepath.Join(half, s.addr, "client.cert"), "x")
	clientCert, clientKey := ca.issue(t, dir, "client")

	for _, test := range []struct {
		name    string
		server  registryServer
		options Options
		want    string // the error
	}{
		{"loopback", s, Options{}, ""},
		{"authority", s, Options{Hosts: map[string]Host{s.addr: {CA: dir + "/ca.pem"}}}, ""},
		{"wrong authority", s, Options{Hosts: map[string]Host{s.addr: {CA: dir + "/other.pem"}}}, "certificate signed by unknown authority"},
		{"wrong authority, skipped", s, Options{Hosts: map[string]Host{s.addr: {CA: dir + "/other.pem", SkipVerify: true}}}, ""},
		{"directory", mutual, Options{CertsDir: certs}, ""},
		{"half a directory", s, Options{CertsDir: half}, "missing key client.key for client certificate client.cert"},
		{"client certificate", mutual, Options{Hosts: map[string]Host{mutual.addr: {Cert: clientCert, Key: clientKey, SkipVerify: true}}}, ""},
		{"no client certificate", mutual, Options{}, "remote error: tls: "},
		{"plain", s, Options{Hosts: map[string]Host{s.addr: {PlainHTTP: true}}}, "400 Bad Request"},
		{"endpoint", s, Options{Hosts: map[string]Host{"registry.test": {Endpoint: "https://" + s.addr}}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var src contents
			name := test.server.addr
			for host := range test.options.Hosts {
				name = host
			}
			_, err := client(t, test.options).Repository(named(t, name+"/app"), nil).Push(t.Context(), "v1", src.image(t, 1000), &src, nil)
			if test.want == "" && err != nil {
				t.Error(err)
			}
			if test.want != "" {
				wantError(t, err, nil, test.want)
			}
		})
	}
}
