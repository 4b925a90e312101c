package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// wire is a client that shows every answer as it is: it follows nothing, tries
// nothing twice and hides no status.
type wire struct {
	url  string
	http *http.Client
}

func newWire(url string) *wire {
	return &wire{url, &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, bytes.TrimSpace(a.body)) }

// clear says why an error is not a clear one, or returns nil: its body must be
// the specification's, with a code and a message.
func (a answer) clear() error {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return fmt.Errorf("answer %s is not the specification's error: %w", a, err)
	}
	if len(body.Errors) == 0 || body.Errors[0].Code == "" || body.Errors[0].Message == "" {
		return fmt.Errorf("answer %s has no code or no message", a)
	}
	if kind := a.header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		return fmt.Errorf("answer %s is of type %q", a, kind)
	}
	return nil
}

// do sends a request; header holds names and values in turn.
func (w *wire) do(method, path string, body io.Reader, header ...string) (answer, error) {
	if !strings.HasPrefix(path, "http") {
		path = w.url + path
	}
	req, err := http.NewRequestWithContext(context.Background(), method, path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, data}, err
}

// must is do for a request whose status is known; another one is an error.
func (w *wire) must(status int, method, path string, body io.Reader, header ...string) (answer, error) {
	a, err := w.do(method, path, body, header...)
	if err == nil && a.status != status {
		err = &unexpected{method, path, a, status}
	}
	return a, err
}

// unexpected says that the server answered, and not as it should have.
type unexpected struct {
	method, path string
	got          answer
	want         int
}

func (u *unexpected) Error() string {
	return fmt.Sprintf("%s %s: %s: want %d", u.method, u.path, u.got, u.want)
}

func (w *wire) pushBlob(repo string, data []byte) (answer, error) {
	return w.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(data).String(),
		bytes.NewReader(data), "Content-Type", "application/octet-stream")
}

func (w *wire) pushManifest(repo, ref string, data []byte) (answer, error) {
	return w.do("PUT", "/v2/"+repo+"/manifests/"+ref, bytes.NewReader(data), "Content-Type", mediaTypeOf(data))
}

func (w *wire) pullBlob(repo string, d digest.Digest) (answer, error) {
	return w.do("GET", "/v2/"+repo+"/blobs/"+d.String(), nil)
}

func (w *wire) pullManifest(repo, ref string) (answer, error) {
	return w.do("GET", "/v2/"+repo+"/manifests/"+ref, nil)
}

// startUpload begins an upload session and returns its location.
func (w *wire) startUpload(repo string) (string, error) {
	a, err := w.must(http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	return a.header.Get("Location"), err
}

// writeUpload sends data[from:to] and returns the session's location.
func (w *wire) writeUpload(location string, data []byte, from, to int) (string, error) {
	a, err := w.must(http.StatusAccepted, "PATCH", location, bytes.NewReader(data[from:to]),
		"Content-Type", "application/octet-stream", "Content-Range", fmt.Sprintf("%d-%d", from, to-1))
	if err != nil {
		return location, err
	}
	if got, err := rangeEnd(a); err != nil || got != to {
		return location, errors.Join(err, fmt.Errorf("upload acknowledged to %d: want %d", got, to))
	}
	return a.header.Get("Location"), nil
}

// commitUpload sends data[from:] and ends the session.
func (w *wire) commitUpload(location string, data []byte, from int) error {
	_, err := w.must(http.StatusCreated, "PUT", location+"?digest="+digest.FromBytes(data).String(), bytes.NewReader(data[from:]))
	return err
}

// rangeEnd is how many bytes of an upload session an answer acknowledges.
func rangeEnd(a answer) (int, error) {
	last, ok := strings.CutPrefix(a.header.Get("Range"), "0-")
	n, err := strconv.Atoi(last)
	if !ok || err != nil {
		return 0, fmt.Errorf("answer has the range %q", a.header.Get("Range"))
	}
	if n == 0 {
		return 0, nil // or one byte, which no test sends
	}
	return n + 1, nil
}

// pages reads a list to its end, a page of n at a time.
func pages[V any](w *wire, path string, n int, items func([]byte) ([]V, error)) ([]V, error) {
	var all []V
	for path = fmt.Sprintf("%s?n=%d", path, n); path != ""; {
		a, err := w.must(http.StatusOK, "GET", path, nil)
		if err != nil {
			return nil, err
		}
		page, err := items(a.body)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		link := a.header.Get("Link")
		path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
	}
	return all, nil
}

func (w *wire) tags(repo string) ([]string, error) {
	return pages(w, "/v2/"+repo+"/tags/list", 100, func(data []byte) ([]string, error) {
		var v struct{ Tags []string }
		err := json.Unmarshal(data, &v)
		return v.Tags, err
	})
}

func (w *wire) catalog() ([]string, error) {
	return pages(w, "/v2/_catalog", 100, func(data []byte) ([]string, error) {
		var v struct{ Repositories []string }
		err := json.Unmarshal(data, &v)
		return v.Repositories, err
	})
}

func (w *wire) referrers(repo string, d digest.Digest) ([]ocispec.Descriptor, error) {
	return pages(w, "/v2/"+repo+"/referrers/"+d.String(), 100, func(data []byte) ([]ocispec.Descriptor, error) {
		var v ocispec.Index
		err := json.Unmarshal(data, &v)
		return v.Manifests, err
	})
}

// smallImage pushes an image of a blob of n random bytes, and returns the digests
// of manifest and blob.
func (w *wire) smallImage(repo, tag string, seed uint64, n int) (manifest, layer digest.Digest, err error) {
	data := randomBytes(seed, n)
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	for _, blob := range [][]byte{config, data} {
		a, err := w.pushBlob(repo, blob)
		if err == nil && a.status != http.StatusCreated {
			err = &unexpected{"POST", repo, a, http.StatusCreated}
		}
		if err != nil {
			return "", "", err
		}
	}
	m := imageManifest(config, data)
	a, err := w.pushManifest(repo, tag, m)
	if err == nil && a.status != http.StatusCreated {
		err = &unexpected{"PUT", repo, a, http.StatusCreated}
	}
	return digest.FromBytes(m), digest.FromBytes(data), err
}

// imageManifest is the manifest of an image of a configuration and layers.
func imageManifest(config []byte, layers ...[]byte) []byte {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptorOf(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, descriptorOf(ocispec.MediaTypeImageLayerGzip, l))
	}
	return mustJSON(m)
}

func descriptorOf(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func mediaTypeOf(manifest []byte) string {
	var v struct{ MediaType string }
	if json.Unmarshal(manifest, &v) != nil || v.MediaType == "" {
		return ocispec.MediaTypeImageManifest
	}
	return v.MediaType
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types of the specification can be encoded
	}
	return data
}

// serves fails the test unless the server takes an image and gives it back.
func (w *wire) serves(t *testing.T, seed uint64) {
	t.Helper()
	manifest, layer, err := w.smallImage("serves", "latest", seed, 100_000)
	if err != nil {
		t.Fatalf("the server does not take an image: %v", err)
	}
	w.verify(t, "serves", manifest, layer)
}

// verify fails the test unless blobs and manifests of a repository come back as
// what their digest says.
func (w *wire) verify(t *testing.T, repo string, manifest digest.Digest, blobs ...digest.Digest) {
	t.Helper()
	a, err := w.pullManifest(repo, manifest.String())
	if err != nil || a.status != http.StatusOK || digest.FromBytes(a.body) != manifest {
		t.Fatalf("manifest %s of %s does not come back: %v %s", manifest, repo, err, a)
	}
	for _, d := range blobs {
		a, err := w.pullBlob(repo, d)
		if err != nil || a.status != http.StatusOK || digest.FromBytes(a.body) != d {
			t.Fatalf("blob %s of %s does not come back: %v, status %d, %d bytes", d, repo, err, a.status, len(a.body))
		}
	}
}
