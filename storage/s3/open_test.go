package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/storage"
)

func TestOptions(t *testing.T) {
	s := berthtest.StartS3(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Bucket = "" }, "no bucket is named"},
		{func(o *Options) { o.Bucket = "another" }, "create it"},
		{func(o *Options) { o.Meta = nil }, "no metadata"},
		{func(o *Options) { o.SecretKey = "" }, "both access key and secret key"},
		{func(o *Options) { o.SecretKey = "a-secret-that-is-wrong" }, "check access key and secret key"},
		{func(o *Options) { o.AccessKey = "unknown-key" }, "check access key and secret key"},
		{func(o *Options) { o.Region = "elsewhere" }, "check the region"},
		{func(o *Options) { o.Endpoint = "127.0.0.1" }, "must be https://"},
		{func(o *Options) { o.Endpoint = "ftp://127.0.0.1" }, "must be https://"},
		{func(o *Options) { o.Endpoint = "http://127.0.0.1/path" }, "must be https://"},
		{func(o *Options) { o.Endpoint = "http://user:a-password@127.0.0.1" }, "must be https://"},
		{func(o *Options) { o.Endpoint = "http://" + freeaddr.For(t) }, "check the endpoint"},
		{func(o *Options) { o.Endpoint, o.RedirectEndpoint, o.Redirect = s.Endpoint, "nonsense", true }, "must be https://"},
		{func(o *Options) { o.PathStyle, o.VirtualHost = true, true }, "exclude each other"},
		{func(o *Options) { o.PartSize = minPart - 1 }, "part size"},
		{func(o *Options) { o.PartSize = maxFirstPart + 1 }, "part size"},
		{func(o *Options) { o.RedirectExpiry = 8 * 24 * time.Hour }, "a redirect must hold"},
		{func(o *Options) { o.RedirectExpiry = time.Millisecond }, "a redirect must hold"},
		{func(o *Options) { o.Timeout = -1 }, "timeout"},
		{func(o *Options) { o.Prefix = "a/../b" }, "prefix"},
		{func(o *Options) { o.Prefix = "a//b" }, "prefix"},
		{func(o *Options) { o.Encryption = "rot13" }, "rot13"},
		{func(o *Options) { o.KMSKey = "key" }, "KMS key needs"},
		{func(o *Options) { o.CA = "/nowhere/ca.pem" }, "/nowhere/ca.pem"},
		{func(o *Options) { o.CA = "open_test.go" }, "no certificate in open_test.go"},
	} {
		o := options(t, s)
		o.Retries, o.Timeout = -1, 2*time.Second
		c.change(&o)
		b, err := Open(t.Context(), o)
		if err == nil {
			_ = b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, not: %v", c.want, err)
			continue
		}
		for _, secret := range []string{o.SecretKey, "a-password"} {
			if secret != "" && strings.Contains(err.Error(), secret) {
				t.Errorf("the error has the secret: %v", err)
			}
		}
	}
}

// TestReadOnly has a server that takes nothing.
func TestReadOnly(t *testing.T) {
	s := berthtest.StartS3(t, "--readonly")
	b := open(t, options(t, s))
	if _, err := store(t.Context(), b, "id", []byte("bytes")); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("store: error %v, want ErrReadOnly", err)
	}
	if err := b.PutNote(t.Context(), "a", nil); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("PutNote: error %v, want ErrReadOnly", err)
	}
}

// TestRestart checks that a server that is away for a moment is waited for.
func TestRestart(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	b := open(t, o)
	b.pause = 200 * time.Millisecond
	data := noise(2*minPart, 1)
	st := openStage(t, b, "id", 0)
	write(t, st, data[:minPart+1])
	s.Kill()
	done := make(chan error, 1)
	go func() {
		_, err := st.Write(data[minPart+1:])
		done <- errors.Join(err, st.Commit(digest.FromBytes(data)), st.Close())
	}()
	s.Start()
	must(t, "store", <-done)
	checkBlob(t, b, digest.FromBytes(data), data)
}

// TestTLS checks that a server is trusted whose certificate is signed by the CA that
// is configured, and no other one.
func TestTLS(t *testing.T) {
	ca := berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	s := berthtest.StartS3(t, "--cert", cert, "--key", key)
	o := options(t, s)
	o.Endpoint = "https://" + s.Addr
	start := time.Now()
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "set the CA") {
		t.Errorf("without the CA: error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
	o.CA = ca.File
	b := open(t, o)
	data := noise(minPart+1, 1)
	checkBlob(t, b, mustStore(t, b, data), data)
}

// TestVirtualHost has the bucket in the host name.
func TestVirtualHost(t *testing.T) {
	s := berthtest.StartS3(t, "--virtual-domain", "s3.test")
	var hosts []string
	o := options(t, s)
	_, port, err := net.SplitHostPort(s.Addr)
	must(t, "the server's address", err)
	o.Endpoint, o.VirtualHost = "http://s3.test:"+port, true
	o.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		hosts = append(hosts, addr)
		return (&net.Dialer{}).DialContext(ctx, network, s.Addr)
	}
	b := open(t, o)
	data := noise(minPart+1, 1)
	checkBlob(t, b, mustStore(t, b, data), data)
	if !has(hosts, "bucket.s3.test:") {
		t.Errorf("the hosts are %q", hosts)
	}
}

// TestCredentials finds credentials where Amazon's own programs do.
func TestCredentials(t *testing.T) {
	s := berthtest.StartS3(t)
	refuse := httptest.NewServer(http.NotFoundHandler())
	defer refuse.Close()
	none := func(t *testing.T) Options {
		t.Helper()
		for _, name := range []string{
			"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
			"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
		} {
			t.Setenv(name, "")
		}
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", refuse.URL)
		o := options(t, s)
		o.AccessKey, o.SecretKey = "", ""
		return o
	}
	t.Run("none", func(t *testing.T) {
		o := none(t)
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no credentials") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("environment", func(t *testing.T) {
		o := none(t)
		t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
		mustStore(t, open(t, o), []byte("bytes"))
	})
	t.Run("file", func(t *testing.T) {
		o := none(t)
		path := filepath.Join(t.TempDir(), "credentials")
		writeFile(t, path, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, s.SecretKey))
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
		mustStore(t, open(t, o), []byte("bytes"))
	})
	t.Run("identity", func(t *testing.T) {
		o := none(t)
		asked := 0
		role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked++
			_, _ = fmt.Fprintf(w, `{"Code": "Success", "AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`,
				s.AccessKey, s.SecretKey, time.Now().Add(time.Hour).Format(time.RFC3339))
		}))
		defer role.Close()
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL)
		mustStore(t, open(t, o), []byte("bytes"))
		if asked != 1 {
			t.Errorf("its identity was asked for %d times", asked)
		}
	})
}

// TestEncryption checks what is asked of a server that encrypts: of all that makes an
// object.
func TestEncryption(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	for _, c := range []struct{ encryption, key string }{{"AES256", ""}, {"aws:kms", "some-key"}} {
		o := options(t, s)
		o.Endpoint, o.Encryption, o.KMSKey, o.Retries = p.URL, c.encryption, c.key, -1
		b := open(t, o)
		p.set(nil)
		large := noise(minPart+1, 1)
		st := openStage(t, b, "id", 0)
		write(t, st, large)
		must(t, "Commit, Close", errors.Join(st.Commit(digest.FromBytes(large)), st.Close()))
		mustStore(t, b, []byte("small"))
		must(t, "Quarantine", b.Quarantine(t.Context(), digest.FromString("small")))
		made := 0
		for i, r := range p.requests() {
			h := p.heads[i]
			makes := strings.HasPrefix(r, "PUT") && !strings.Contains(r, "partNumber") || strings.Contains(r, " uploads=")
			if !makes {
				continue
			}
			made++
			if h.Get("X-Amz-Server-Side-Encryption") != c.encryption || h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != c.key {
				t.Errorf("%s asks for the encryption %q, key %q", r, h.Get("X-Amz-Server-Side-Encryption"), h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
			}
		}
		if made != 4 {
			t.Errorf("%d objects were made: %q", made, p.requests())
		}
	}
}

// TestRedirectURL gets a blob as a client does that knows nothing but a URL.
func TestRedirectURL(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	o.Redirect, o.RedirectExpiry = true, 2*time.Second
	o.RedirectEndpoint = strings.Replace(s.Endpoint, "127.0.0.1", "localhost", 1)
	o.Region = "" // it asks
	b := open(t, o)
	data := noise(100_000, 1)
	d := mustStore(t, b, data)
	r, err := b.Open(t.Context(), d)
	must(t, "Open", err)
	defer func() { _ = r.Close() }()
	link, err := r.(interface {
		RedirectURL(ctx context.Context) (string, error)
	}).RedirectURL(t.Context())
	must(t, "RedirectURL", err)
	u, err := url.Parse(link)
	if err != nil || u.Hostname() != "localhost" || strings.Contains(link, s.SecretKey) {
		t.Fatalf("the URL is %s, %v", link, err)
	}
	get := func(headers ...string) (int, string, string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
		must(t, "NewRequest", err)
		for i := 0; i < len(headers); i += 2 {
			q.Header.Set(headers[i], headers[i+1])
		}
		res, err := http.DefaultClient.Do(q)
		must(t, "GET", err)
		body, err := io.ReadAll(res.Body)
		must(t, "GET", errors.Join(err, res.Body.Close()))
		return res.StatusCode, string(body), res.Header.Get("Content-Type")
	}
	if status, body, kind := get(); status != http.StatusOK || body != string(data) || kind != contentType {
		t.Errorf("GET answers %d, %d bytes, %q", status, len(body), kind)
	}
	if status, body, _ := get("Range", "bytes=10-19"); status != http.StatusPartialContent || body != string(data[10:20]) {
		t.Errorf("GET of a range answers %d, %d bytes", status, len(body))
	}
	deadline := time.Now().Add(20 * time.Second)
	for status := http.StatusOK; status != http.StatusForbidden; {
		if status, _, _ = get(); time.Now().After(deadline) {
			t.Fatal("the URL does not end")
		}
		time.Sleep(100 * time.Millisecond)
	}
}
