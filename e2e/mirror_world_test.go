package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// upstream is a registry that is mirrored, behind a proxy that can fail.
type upstream struct {
	t       *testing.T
	proxy   *berthtest.Faulty
	wire    *wire  // to the registry itself, as who may push
	login   string // keys of a mirror's configuration: its account there
	secrets []string
}

// upstreams are the kinds of upstreams: Debian's docker-registry with Basic, and a
// berth with tokens and TLS.
var upstreams = map[string]func(*testing.T) *upstream{"docker-registry": startBasicUpstream, "berth": startTokenUpstream}

func startBasicUpstream(t *testing.T) *upstream {
	t.Helper()
	dir, addr, password := t.TempDir(), freeaddr.For(t), "pw-"+rand.Text()
	users := writeFile(t, dir, "htpasswd", []byte(berthtest.NewCommand(t, "htpasswd").Input(password).Run("-niB", "puller")))
	config := writeFile(t, dir, "config.yml", fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n"+
		"http: {addr: %q}\nauth: {htpasswd: {realm: test, path: %q}}\n", filepath.Join(dir, "data"), addr, users))
	w := newWire("http://" + addr)
	berthtest.NewCommand(t, "docker-registry").Daemon(func() error { _, err := w.do("GET", "/v2/", nil); return err }, "serve", config)
	u := &upstream{t: t, wire: w, login: fmt.Sprintf("username: puller, password: %q", password), secrets: []string{password}}
	u.signIn("puller", password)
	u.proxy = berthtest.StartFaulty(t, w.url, w.http, nil)
	return u
}

func startTokenUpstream(t *testing.T) *upstream {
	t.Helper()
	ca := berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	password, root := "pw-"+rand.Text(), "pw-"+rand.Text()
	data, addr := filepath.Join(t.TempDir(), "data"), freeaddr.For(t)
	for name, password := range map[string]string{"puller": password, "root": root} {
		berthtest.NewCommand(t, "sh", "-ec").Input(password+"\n").Run(`"$0" user add "$2" --data "$1" --password-stdin`, berthtest.Binary(t, "berth"), data, name)
	}
	proxy := berthtest.StartFaulty(t, "https://"+addr, ca.HTTP(), ca)
	s := berthtest.Start(t, berthtest.Options{
		Data: data, Addr: addr, CA: ca,
		Config: fmt.Sprintf("http: {public_url: %q, tls: {cert: %q, key: %q}}\npolicy:\n- {who: [root], repos: [\"**\"], may: [pull, push, delete]}\n- {who: [puller], repos: [\"**\"], may: [pull]}\n", proxy.URL, cert, key),
	})
	u := &upstream{
		t: t, wire: newWire(s.URL), proxy: proxy,
		login:   fmt.Sprintf("username: puller, password: %q, ca: %q", password, ca.File),
		secrets: []string{password, root},
	}
	u.wire.http.Transport = ca.HTTP().Transport
	u.signIn("root", root)
	return u
}

// signIn has wire say who it is.
func (u *upstream) signIn(account, password string) {
	login := base64.StdEncoding.EncodeToString([]byte(account + ":" + password))
	u.secrets = append(u.secrets, login)
	u.wire.http.Transport = signedIn{u.wire.http.Transport, "Basic " + login}
}

type signedIn struct {
	base  http.RoundTripper
	login string
}

// RoundTrip implements http.RoundTripper.
func (s signedIn) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", s.login)
	return s.base.RoundTrip(r)
}

// mirrorImage is an image of an upstream.
type mirrorImage struct {
	repo, tag string
	manifest  digest.Digest
	blobs     []digest.Digest // configuration, then layers
	size      int64           // bytes of the blobs
}

// push pushes an image with layers of the sizes given, of which no other has any.
func (u *upstream) push(repo, tag string, layers ...int) mirrorImage {
	u.t.Helper()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":%q,"rootfs":{"type":"layers","diff_ids":[]}}`, rand.Text())
	blobs := [][]byte{config}
	for _, n := range layers {
		data := make([]byte, n)
		_, _ = rand.Read(data) // never fails
		blobs = append(blobs, data)
	}
	img := mirrorImage{repo: repo, tag: tag}
	for _, data := range blobs {
		d := digest.FromBytes(data)
		location, err := u.wire.startUpload(repo)
		if err != nil {
			u.t.Fatal(err)
		}
		sign := "?"
		if strings.Contains(location, "?") {
			sign = "&"
		}
		must(u.wire.must(http.StatusCreated, "PUT", location+sign+"digest="+d.String(), bytes.NewReader(data), "Content-Type", "application/octet-stream"))(u.t)
		img.blobs, img.size = append(img.blobs, d), img.size+int64(len(data))
	}
	manifest := imageManifest(config, blobs[1:]...)
	img.manifest = digest.FromBytes(manifest)
	must(u.wire.must(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(manifest), "Content-Type", ociManifest))(u.t)
	return img
}

// entry is the upstream in a configuration's mirrors.
func (u *upstream) entry(name, more string) string {
	return fmt.Sprintf("- {name: %s, upstream: %q, %s, %s}\n", name, u.proxy.URL, u.login, more)
}

// quick has a mirror find out soon what has changed.
const quick = "revalidate: 20ms, negative: 20ms, patience: 1s"

// mirror is a server that mirrors an upstream as "far".
type mirror struct {
	*berthtest.Server
	t    *testing.T
	wire *wire
}

func startMirror(t *testing.T, u *upstream, more string) *mirror {
	t.Helper()
	s := berthtest.Start(t, berthtest.Options{Config: "mirrors:\n" + u.entry("far", quick) + more})
	return &mirror{s, t, newWire(s.URL)}
}

// pull pulls all of an image by its tag. What it gets in a complete answer must be
// right.
func (m *mirror) pull(img mirrorImage) error {
	m.t.Helper()
	repo := "far/" + img.repo
	a, err := m.wire.do("GET", "/v2/"+repo+"/manifests/"+img.tag, nil)
	if err := m.right(a, err, img.manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	for _, d := range img.blobs {
		a, err := m.wire.pullBlob(repo, d)
		if err := m.right(a, err, d); err != nil {
			return fmt.Errorf("blob: %w", err)
		}
	}
	return nil
}

// right says whether an answer is what was asked for. One that is complete and is not
// must say clearly that it is none.
func (m *mirror) right(a answer, err error, d digest.Digest) error {
	m.t.Helper()
	switch {
	case err != nil:
		return err
	case a.status != http.StatusOK:
		if err := a.clear(); err != nil {
			m.t.Error(err)
		}
		return errors.New(a.String())
	case digest.FromBytes(a.body) != d:
		m.t.Errorf("a complete answer has %d bytes that are %s, want %s", len(a.body), digest.FromBytes(a.body), d)
	}
	return nil
}

// mustPull is pull that has to succeed.
func (m *mirror) mustPull(img mirrorImage) {
	m.t.Helper()
	if err := m.pull(img); err != nil {
		m.t.Fatalf("pull %s:%s: %v", img.repo, img.tag, err)
	}
}

// stored is the path of a blob in the data of a server.
func (m *mirror) stored(d digest.Digest) string {
	return filepath.Join(m.Data, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

// sound fails the test unless all that is stored is what it is called, and waits until
// nothing is under way.
func (m *mirror) sound() (blobs int) {
	m.t.Helper()
	waitFor(m.t, "an end of all transfers", func() bool {
		left, err := filepath.Glob(filepath.Join(m.Data, "mirror", "*"))
		return err == nil && len(left) == 0
	})
	err := filepath.WalkDir(filepath.Join(m.Data, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was being written
		}
		if name := filepath.Base(path); len(name) == 64 {
			blobs++
			if got := digest.FromBytes(data).Encoded(); got != name {
				m.t.Errorf("%s holds %s", path, got)
			}
		}
		return err
	})
	if err != nil {
		m.t.Error(err)
	}
	return blobs
}

// isBlob says whether a request is for the bytes of a blob.
func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}
