package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// eachRegistry runs a test against Berth and Docker's registry.
func eachRegistry(t *testing.T, test func(t *testing.T, s registryServer)) {
	t.Parallel()
	t.Run("berth", func(t *testing.T) { t.Parallel(); test(t, berth(t)) })
	t.Run("distribution", func(t *testing.T) { t.Parallel(); test(t, distribution(t)) })
}

func TestPushAndFetch(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 3<<20, 100, 5000, 1<<20, 10, 2<<20, 7)
		name := named(t, s.localhost()+"/lib/app:v1")
		r := c.Repository(name, nil)
		var said messages
		desc, err := r.Push(t.Context(), "v1", image, &src, said.progress())
		if err != nil {
			t.Fatal(err)
		}
		if desc.Digest != image.Manifest.Digest {
			t.Errorf("pushed %s: want %s", desc.Digest, image.Manifest.Digest)
		}
		checkMessages(t, &said, s, image)

		r = c.Repository(name, nil)
		for _, ref := range []string{"", "v1", name.String(), desc.Digest.String(), name.Name() + "@" + desc.Digest.String()} {
			if got, err := r.Resolve(t.Context(), ref); err != nil || got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType {
				t.Errorf("%q resolves to %+v, %v: want %+v", ref, got, err, desc)
			}
		}
		src.check(t, r, append(image.Blobs, image.Manifest)...)
		for tag, err := range r.Tags(t.Context()) {
			if tag != "v1" || err != nil {
				t.Errorf("tag %q, %v", tag, err)
			}
		}
		inspect, err := c.Distribution(t.Context(), name, nil)
		if err != nil || inspect.Descriptor.Digest != desc.Digest || len(inspect.Platforms) != 1 || inspect.Platforms[0].Architecture != "amd64" {
			t.Errorf("distribution: %+v, %v", inspect, err)
		}
	})
}

func checkMessages(t *testing.T, said *messages, s registryServer, image PushContent) {
	t.Helper()
	if got, want := said.all[0].Status, "The push refers to repository ["+s.localhost()+"/lib/app]"; got != want {
		t.Errorf("the first message is %q: want %q", got, want)
	}
	// The topmost layer comes first, and the last two of seven have to wait; the
	// configuration is the eighth and says nothing.
	layers := image.Blobs[1:]
	top := image.DiffIDs[layers[len(layers)-1].Digest].Encoded()[:12]
	if said.all[1].ID != top || said.all[1].Status != "Preparing" {
		t.Errorf("the second message is %+v: want %s Preparing", said.all[1], top)
	}
	for i, l := range layers {
		want := []string{"Preparing", "Waiting", "Pushing", "Pushed"}
		if i >= 2 {
			want = []string{"Preparing", "Pushing", "Pushed"}
		}
		if got := said.statuses(image.DiffIDs[l.Digest].Encoded()[:12]); !slices.Equal(got, want) {
			t.Errorf("layer %d: %q, want %q", i, got, want)
		}
	}
	if strings.Contains(said.text(), image.Blobs[0].Digest.Encoded()[:12]) {
		t.Error("progress names the configuration")
	}
	n := len(said.all)
	m := image.Manifest
	if got, want := said.all[n-2].Status, fmt.Sprintf("v1: digest: %s size: %d", m.Digest, m.Size); got != want {
		t.Errorf("the last line is %q: want %q", got, want)
	}
	var aux struct {
		Tag, Digest string
		Size        int64
	}
	if err := json.Unmarshal(*said.all[n-1].Aux, &aux); err != nil || aux.Tag != "v1" || aux.Digest != m.Digest.String() || aux.Size != m.Size {
		t.Errorf("aux is %s, %v", *said.all[n-1].Aux, err)
	}
}

func TestPushOnlyWhatIsMissing(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 1000, 2000)
		push := func(repo string, p PushContent) *messages {
			var said messages
			if _, err := c.Repository(named(t, s.addr+"/"+repo), nil).Push(t.Context(), "latest", p, &src, said.progress()); err != nil {
				t.Fatal(err)
			}
			return &said
		}
		push("one/app", image)
		id := image.DiffIDs[image.Blobs[2].Digest].Encoded()[:12]
		if got := push("one/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Layer already exists"}) {
			t.Errorf("pushed again: %q", got)
		}
		image.MountFrom = map[digest.Digest][]string{}
		for _, b := range image.Blobs {
			image.MountFrom[b.Digest] = []string{"no/such", "one/app"}
		}
		if got := push("two/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Mounted from one/app"}) {
			t.Errorf("pushed to another repository: %q", got)
		}
		image.MountFrom[image.Blobs[2].Digest] = []string{"no/such"}
		if got := push("three/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Pushing", "Pushed"}) {
			t.Errorf("pushed where it cannot be mounted from: %q", got)
		}
		src.check(t, c.Repository(named(t, s.addr+"/three/app"), nil), image.Blobs...)
	})
}

func TestPushIndex(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		a, b := src.image(t, 1000), src.image(t, 2000)
		index := src.index(t, a, b)
		name := named(t, s.addr+"/multi")
		if _, err := c.Repository(name, nil).Push(t.Context(), "latest", index, &src, nil); err != nil {
			t.Fatal(err)
		}
		r := c.Repository(name, nil)
		desc, err := r.Resolve(t.Context(), "")
		if err != nil || desc.Digest != index.Manifest.Digest || desc.MediaType != ocispec.MediaTypeImageIndex {
			t.Errorf("got %+v, %v", desc, err)
		}
		src.check(t, r, a.Manifest, b.Manifest, a.Blobs[1], b.Blobs[1])
		inspect, err := c.Distribution(t.Context(), name, nil)
		if err != nil || len(inspect.Platforms) != 2 || inspect.Platforms[1].Architecture != "arm64" {
			t.Errorf("distribution: %+v, %v", inspect, err)
		}
	})
}

// TestBrokenUpload has the connections cut in the midst of a layer, and of the
// layer sent again.
func TestBrokenUpload(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		image := src.image(t, 20<<20)
		cut := newCutter(t, s.addr, true, 2, 6<<20)
		r := client(t, Options{}).Repository(named(t, cut.addr+"/broken"), nil)
		var said messages
		if _, err := r.Push(t.Context(), "v1", image, &src, said.progress()); err != nil {
			t.Fatalf("%v\n%s", err, said.text())
		}
		most := int64(24 << 20)
		if strings.HasSuffix(t.Name(), "/distribution") {
			most = 40 << 20 // it forgets an upload that breaks off
		}
		cut.check(t, most)
		if !strings.Contains(said.text(), "Retrying in ") {
			t.Errorf("nothing is said of a retry:\n%s", said.text())
		}
		src.check(t, r, image.Blobs...)
	})
}

// TestPushGivenUp leaves no tag where a layer cannot be sent.
func TestPushGivenUp(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		image := src.image(t, 1000, 20<<20)
		cut := newCutter(t, s.addr, true, 100, 1<<20)
		r := client(t, Options{}).Repository(named(t, cut.addr+"/broken"), nil)
		if _, err := r.Push(t.Context(), "v1", image, &src, nil); err == nil {
			t.Error("the push has succeeded")
		}
		if status, body := s.get(t, "/v2/broken/tags/list"); status == 200 && strings.Contains(body, "v1") {
			t.Errorf("a tag is there: %s", body)
		}
		// Content that is not as long as it should be is not tried again.
		short := image.Blobs[1]
		src.bytes[short.Digest] = src.bytes[short.Digest][:10]
		_, err := client(t, Options{}).Repository(named(t, s.addr+"/short"), nil).Push(t.Context(), "v1", image, &src, nil)
		wantError(t, err, nil, "shorter than its descriptor says")
	})
}

// TestBrokenDownload has the connections cut in the midst of a blob, more often
// than a blob that makes no progress is tried.
func TestBrokenDownload(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 20<<20)
		if _, err := c.Repository(named(t, s.addr+"/app"), nil).Push(t.Context(), "v1", image, &src, nil); err != nil {
			t.Fatal(err)
		}
		cut := newCutter(t, s.addr, false, 7, 2<<20)
		body := must[io.ReadCloser](t)(c.Repository(named(t, cut.addr+"/app"), nil).Fetch(t.Context(), "", image.Blobs[1], 0))
		defer body.Close()
		if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, src.bytes[image.Blobs[1].Digest]) {
			t.Errorf("got %d bytes, %v", len(data), err)
		}
		cut.check(t, 24<<20)
	})
}

func TestNotThere(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 10)
		name := s.localhost() + "/x"
		_, err := c.Repository(named(t, name), nil).Resolve(t.Context(), "latest")
		wantError(t, err, runner.ErrNotFound, " not found: ")
		r := c.Repository(named(t, name), nil)
		if _, err := r.Push(t.Context(), "v1", image, &src, nil); err != nil {
			t.Fatal(err)
		}
		_, err = r.Resolve(t.Context(), "latest")
		wantError(t, err, runner.ErrNotFound, "manifest for "+name+":latest not found: manifest unknown: ")
		gone := image.Blobs[1]
		gone.Digest = digest.FromString("gone")
		_, err = r.Fetch(t.Context(), "", gone, 0)
		wantError(t, err, runner.ErrNotFound, "blob unknown")
		wrong := image.Blobs[1]
		wrong.Size++
		_, err = r.Fetch(t.Context(), "", wrong, 0)
		wantError(t, err, nil, "should be 11")
		_, err = r.Resolve(t.Context(), "other/repo:x")
		wantError(t, err, runner.ErrInvalid, "is not in the repository")
	})
}

func TestNobody(t *testing.T) {
	t.Parallel()
	var src contents
	addr := freeAddr(t)
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

func TestSearch(t *testing.T) {
	t.Parallel()
	s := berth(t)
	var src contents
	c := client(t, Options{DefaultRegistry: s.localhost()})
	for _, repo := range []string{"team/web", "team/busybox", "busy"} {
		if _, err := c.Repository(named(t, s.addr+"/"+repo), nil).Push(t.Context(), "v1", src.image(t, 10), &src, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		req  runner.SearchRequest
		want string
		err  string
	}{
		{runner.SearchRequest{Term: s.localhost() + "/busy"}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "busy"}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "team/"}, "[team/busybox team/web]", ""},
		{runner.SearchRequest{Term: "busy", Limit: 1}, "[busy]", ""},
		{runner.SearchRequest{Term: "nothing"}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-official": {"true"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-automated": {"true"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"stars": {"1", "3"}}}, "[]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"is-official": {"0"}, "stars": {"0"}}}, "[busy team/busybox]", ""},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"stars": {"many"}}}, "", "invalid filter 'stars=many'"},
		{runner.SearchRequest{Term: "busy", Filters: runner.Filters{"color": {"red"}}}, "", "invalid filter 'color'"},
		{runner.SearchRequest{Term: "busy", Limit: -1}, "", "limit -1 is outside the range of [1, 100]"},
		{runner.SearchRequest{Term: "busy", Limit: 101}, "", "limit 101 is outside the range of [1, 100]"},
		{runner.SearchRequest{Term: "https://busy"}, "", "should not have a scheme"},
	} {
		found, err := c.Search(t.Context(), test.req)
		if test.err != "" {
			wantError(t, err, runner.ErrInvalid, test.err)
			continue
		}
		names := []string{}
		for _, f := range found {
			names = append(names, f.Name)
		}
		slices.Sort(names)
		if got := fmt.Sprint(names); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v: want %s", test.req, got, err, test.want)
		}
	}
}

// TestIPv6 reaches a registry by an address in brackets.
func TestIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = client(t, Options{}).Repository(named(t, addr+"/x"), nil).Resolve(t.Context(), "v1")
	wantError(t, err, nil, `Get "http://`+addr+`/v2/": dial tcp `+addr+`: connect: connection refused`)
}
