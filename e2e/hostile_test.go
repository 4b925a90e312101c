package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// growth is how much more memory than before a server may have resident after
// hostile clients.
const growth = 64 << 20

// hostile is a server that clients mean no good.
type hostile struct {
	server *berthtest.Server
	wire   *wire
	before int64 // resident bytes
}

// startHostile starts a server with something in it.
func startHostile(t *testing.T, env ...string) *hostile {
	t.Helper()
	s := berthtest.Start(t, berthtest.Options{Env: env})
	h := &hostile{server: s, wire: newWire(s.URL)}
	for seed := range uint64(20) {
		h.wire.serves(t, seed)
	}
	h.before = s.Resident()
	return h
}

var failed = regexp.MustCompile(`"status":5\d\d`)

// unharmed checks that the server has answered nobody with a failure of its own,
// has not grown, and serves on.
func (h *hostile) unharmed(t *testing.T) {
	t.Helper()
	if line := failed.FindString(h.server.Log()); line != "" {
		t.Errorf("the server has answered with %s", line)
	}
	if after := h.server.Resident(); after > h.before+growth {
		t.Errorf("the server had %d MiB of memory and has %d", h.before>>20, after>>20)
	}
	h.wire.serves(t, 4711)
}

// refuses checks that an answer is a clear error of the client's.
func refuses(t *testing.T, what string, a answer, err error) {
	t.Helper()
	switch {
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case a.status < 400 || a.status > 499:
		t.Errorf("%s: %s: want a 4xx", what, a)
	default:
		if err := a.clear(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestHostilePaths asks for what there cannot be.
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	long := strings.Repeat("a", 300)
	paths := []string{
		"/", "/..", "/../../etc/passwd", "/v2/..", "/v2/../../etc/passwd", "/v2/%2e%2e/%2e%2e/etc/passwd", "/v3/", "/v2/x",
		"/v2/a/../b/manifests/x", "/v2/../a/tags/list", "/v2/./a/tags/list", "/v2/a%2fb/manifests/x", "/v2/a%2F..%2Fb/blobs/" + someDigest,
		"/v2/%2e%2e/manifests/x", "/v2/..%5c..%5c/tags/list", "/v2/a/..%2f/tags/list", "/v2//tags/list", "/v2/a//b/tags/list",
		"/v2/a/blobs/../../../meta.db", "/v2/a/blobs/..", "/v2/a/blobs/sha256:../../../../../../etc/passwd", "/v2/a/blobs/sha256:..%2f..%2f..%2fmeta.db",
		"/v2/a/blobs/uploads/../../x", "/v2/a/blobs/uploads/..%2f..%2f..%2fmeta.db", "/v2/a/blobs/uploads/..", "/v2/a/blobs/uploads/%00",
		"/v2/a/blobs/uploads/" + long, "/v2/a/blobs/uploads/AAAA", "/v2/a/manifests/..", "/v2/a/manifests/../x", "/v2/a/manifests/%2e%2e",
		"/v2/A/manifests/x", "/v2/-a/manifests/x", "/v2/a_/manifests/x", "/v2/a___b/manifests/x", "/v2/" + long + "/manifests/x",
		"/v2/" + strings.Repeat("a/", 4000) + "tags/list", "/v2/a/manifests/" + long, "/v2/a/manifests/.x", "/v2/a/manifests/x%00", "/v2/a%00b/tags/list",
		"/v2/a%0ab/tags/list", "/v2/a%ff/tags/list", "/v2/\xe4/tags/list", "/v2/a/manifests/sha256:", "/v2/a/manifests/:", "/v2/a/blobs/" + someDigest[:40],
		"/v2/a/blobs/" + strings.ToUpper(someDigest), "/v2/a/blobs/sha512:" + someDigest[7:], "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
		"/v2/a/blobs/sha256:" + strings.Repeat("g", 64), "/v2/a/blobs/" + someDigest + "/", "/v2/a/blobs/", "/v2/a/referrers/x", "/v2/a/referrers/..",
		"/v2/serves/tags/list?n=-1", "/v2/serves/tags/list?n=x", "/v2/serves/tags/list?n=99999999999999999999", "/v2/_catalog?n=-1", "/v2/_catalog?n=1e9",
		"/v2/_catalog?last=%00", "/v2/_catalog?last=" + long, "/v2/serves/tags/list?last=%00", "/v2/serves/tags/list?n=1&last=%zz", "/v1/", "/v1/users", "/v2/a/tags/list/",
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"} {
			body := "{}"
			if method == "TRACE" {
				body = ""
			}
			a := h.raw(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body))
			if a == nil {
				continue // the connection was closed
			}
			if a.status < 400 || a.status > 499 {
				t.Errorf("%s %.200s: %s: want a 4xx", method, path, *a)
			} else if err := a.clear(); err != nil && a.header.Get("Connection") != "close" {
				t.Errorf("%s %.200s: %v", method, path, err)
			}
		}
	}
	h.unharmed(t)
}

// TestHostileUploads sends what is not what it says.
func TestHostileUploads(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	w := h.wire
	data := randomBytes(99, 100_000)
	right := digest.FromBytes(data).String()
	const uploads = "/v2/hostile/blobs/uploads/"

	a, err := w.do("POST", uploads+"?digest="+someDigest, bytes.NewReader(data))
	refuses(t, "POST with another digest", a, err)
	for _, d := range []string{"", "x", "sha256:", "sha256:..", "md5:d41d8cd98f00b204e9800998ecf8427e", right[:len(right)-1], right + "0", right + "%00", "..%2f" + right} {
		a, err := w.do("POST", uploads+"?digest="+d, bytes.NewReader(data))
		refuses(t, "POST with digest "+d, a, err)
		a, err = w.do("POST", uploads+"?mount="+d+"&from=serves", nil)
		refuses(t, "mount of digest "+d, a, err)
	}
	for _, from := range []string{"..", "A", "a/../b", "%00", strings.Repeat("a", 300)} {
		a, err := w.do("POST", uploads+"?mount="+right+"&from="+from, nil)
		refuses(t, "mount from "+from, a, err)
	}

	for _, contentRange := range []string{
		"x", "-", "0", "5-", "-5", "5-2", "-1-5", "0-99999999999999999999", "99999999999999999999-0",
		"0-5", "0-100000", "1-100000", "9223372036854775807-9223372036854775807", "0-99999,0-1", strings.Repeat("9", 10_000),
	} {
		location := must(w.startUpload("hostile"))(t)
		a, err := w.do("PATCH", location, bytes.NewReader(data), "Content-Range", contentRange)
		refuses(t, "PATCH with Content-Range "+contentRange, a, err)
	}

	location := must(w.startUpload("hostile"))(t)
	a, err = w.do("PUT", location+"?digest="+someDigest, bytes.NewReader(data))
	refuses(t, "PUT with another digest", a, err)
	a, err = w.do("PUT", strings.Replace(location, "/hostile/", "/another/", 1)+"?digest="+right, bytes.NewReader(data))
	refuses(t, "PUT to the session of another repository", a, err)
	for _, path := range []string{someDigest, right} {
		if a, err := w.do("GET", "/v2/hostile/blobs/"+path, nil); err != nil || a.status != http.StatusNotFound {
			t.Errorf("a blob that was refused answers %s: %v", a, err)
		}
	}
	h.unharmed(t)
}

// TestHostileBodies lies about how long a request is, and breaks off.
func TestHostileBodies(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	data := string(randomBytes(98, 50_000))
	d := digest.FromString(data).String()
	location := must(h.wire.startUpload("hostile"))(t)
	heads := []string{"POST /v2/hostile/blobs/uploads/?digest=" + d, "PATCH " + location, "PUT " + location + "?digest=" + d, "PUT /v2/hostile/manifests/x"}
	framings := map[string]string{
		"longer than the body":        "Content-Length: 60000\r\n\r\n" + data,
		"far longer than the body":    "Content-Length: 9223372036854775807\r\n\r\n" + data,
		"too long to be a number":     "Content-Length: 99999999999999999999\r\n\r\n" + data,
		"negative":                    "Content-Length: -1\r\n\r\n" + data,
		"no number":                   "Content-Length: many\r\n\r\n" + data,
		"two lengths":                 "Content-Length: 5\r\nContent-Length: 50000\r\n\r\n" + data,
		"length and cut chunks":       "Content-Length: 50000\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"chunks that break off":       "Transfer-Encoding: chunked\r\n\r\nC350\r\n" + data[:1000],
		"chunk of no length":          "Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + data,
		"chunk of too great a length": "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n" + data,
		"chunk without an end":        "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 100_000),
		"encoding that nobody knows":  "Transfer-Encoding: gzip\r\n\r\n" + data,
		"nothing at all":              "Content-Length: 50000\r\n\r\n",
	}
	for _, head := range heads {
		for name, framing := range framings {
			a := h.raw(t, head+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"+framing)
			if a != nil && (a.status < 400 || a.status > 501) {
				t.Errorf("%s: %s: answered with %s", head, name, *a)
			}
		}
	}
	// What is sent after the body is another request, and no part of this one.
	a := h.raw(t, heads[0]+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"+data)
	if a == nil || a.status != http.StatusBadRequest {
		t.Errorf("a body longer than its length: %v: want 400", a)
	}
	if a, err := h.wire.do("GET", "/v2/hostile/blobs/"+d, nil); err != nil || a.status != http.StatusNotFound {
		t.Errorf("a blob that never came whole answers %s: %v", a, err)
	}
	h.unharmed(t)
}

// TestHostileRanges asks for parts that there are not.
func TestHostileRanges(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	_, layer, err := h.wire.smallImage("ranges", "x", 97, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{
		"bytes=5-2", "bytes=x", "bytes=-", "bytes=--5", "bytes=-0", "bytes=100000-", "bytes=99999999999999999999-", "bytes=0-99999999999999999999",
		"bytes=-99999999999999999999", "bytes", "bytes=", "=", "lines=0-5", "bytes=0-1,", "bytes=0-0" + strings.Repeat(",0-0", 5000), "bytes=0 - 5", "bytes=\x800-1",
	} {
		a, err := h.wire.do("GET", "/v2/ranges/blobs/"+layer.String(), nil, "Range", r)
		switch {
		case err != nil:
			t.Errorf("Range %.50s: %v", r, err)
		case a.status == http.StatusRequestedRangeNotSatisfiable, a.status == http.StatusBadRequest:
			refuses(t, "Range "+r, a, nil)
		case a.status == http.StatusOK && digest.FromBytes(a.body) != layer:
			t.Errorf("Range %.50s: the whole comes back damaged", r)
		case a.status != http.StatusOK && a.status != http.StatusPartialContent:
			t.Errorf("Range %.50s: %d", r, a.status)
		}
	}
	h.unharmed(t)
}

// TestHostileManifests pushes what is no manifest.
func TestHostileManifests(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	nested := func(open, closing string, size int) string {
		n := size / (len(open) + len(closing))
		return strings.Repeat(open, n) + "0" + strings.Repeat(closing, n)
	}
	const image, index = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",`
	config := func(digest, size string) string {
		return image + `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":` + size + `},"layers":[]}`
	}
	manifests := map[string]string{
		"empty":               "",
		"no JSON":             "hello",
		"null":                "null",
		"number":              "1",
		"array":               "[]",
		"string":              `"manifest"`,
		"cut short":           image,
		"two":                 image + `"layers":[]}{}`,
		"wrong types":         `{"schemaVersion":"2","mediaType":5,"config":[],"layers":{}}`,
		"no schema version":   `{}`,
		"version of tomorrow": `{"schemaVersion":3}`,
		"version 1":           `{"schemaVersion":1,"fsLayers":[],"history":[]}`,
		"path for a digest":   config("../../../../etc/passwd", "5"),
		"absent blob":         config(someDigest, "5"),
		"empty digest":        config("", "5"),
		"negative size":       config(someDigest, "-5"),
		"size of no number":   config(someDigest, "1e400"),
		"layers of null":      image + `"config":null,"layers":[null,null]}`,
		"absent manifest":     index + `"manifests":[{"digest":"` + someDigest + `","size":5,"mediaType":"x"}]}`,
		"subject of nothing":  image + `"subject":{"digest":"x","size":5,"mediaType":"x"},"layers":[]}`,
		"10 MB of arrays":     nested("[", "]", 10_000_000),
		"10 MB of objects":    nested(`{"a":`, "}", 10_000_000),
		"4 MB of arrays":      nested("[", "]", 4_000_000),
		"4 MB of objects":     nested(`{"a":`, "}", 4_000_000),
		"4 MB in a manifest":  image + `"annotations":` + nested(`{"a":`, "}", 4_000_000) + `}`,
		"4 MB of brackets":    strings.Repeat("[", 4_000_000),
		"no UTF-8":            image + "\"layers\":[],\"annotations\":{\"\xff\xfe\":\"\xff\"}}",
	}
	for name, m := range manifests {
		d := digest.FromString(m).String()
		for _, ref := range []string{"latest", d, someDigest} {
			// With a length, and without one.
			for _, body := range []io.Reader{strings.NewReader(m), io.MultiReader(strings.NewReader(m))} {
				a, err := h.wire.do("PUT", "/v2/hostile/manifests/"+ref, body, "Content-Type", mediaTypeOf([]byte(image+`"x":0}`)))
				refuses(t, name, a, err)
			}
		}
	}
	for _, kind := range []string{"", "x", "text/html", strings.Repeat("a", 50_000)} {
		a, err := h.wire.do("PUT", "/v2/hostile/manifests/latest", strings.NewReader(config(someDigest, "5")), "Content-Type", kind)
		refuses(t, "manifest of type "+kind[:min(len(kind), 20)], a, err)
	}
	if a, err := h.wire.do("GET", "/v2/hostile/tags/list", nil); err != nil || a.status != http.StatusNotFound {
		t.Errorf("a repository of which every manifest was refused answers %s: %v", a, err)
	}
	h.unharmed(t)
}

// TestHostileManifestMemory pushes manifests that are small as bytes and large
// as what they say, many at a time.
func TestHostileManifestMemory(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	manifests := map[string]string{
		"a million layers":        `{"schemaVersion":2,"layers":[` + strings.Repeat(`{},`, 1_000_000) + `{}]}`,
		"a million manifests":     `{"schemaVersion":2,"manifests":[` + strings.Repeat(`{},`, 1_000_000) + `{}]}`,
		"300,000 annotations":     `{"schemaVersion":2,"annotations":{` + numbered(300_000, `"%d":"",`) + `"":""}}`,
		"300,000 in a descriptor": `{"schemaVersion":2,"config":{"annotations":{` + numbered(300_000, `"%d":"",`) + `"":""}}}`,
		"a million URLs":          `{"schemaVersion":2,"config":{"urls":[` + strings.Repeat(`"",`, 1_000_000) + `""]}}`,
		"30,000 layers like real": `{"schemaVersion":2,"layers":[` + strings.Repeat(`{"mediaType":"a","size":1,"digest":"`+someDigest+`"},`, 30_000) + `{}]}`,
	}
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for name, m := range manifests {
				a, err := h.wire.do("PUT", "/v2/hostile/manifests/x", strings.NewReader(m), "Content-Type", mediaTypeOf([]byte("{}")))
				refuses(t, name, a, err)
			}
		})
	}
	clients.Wait()
	h.unharmed(t)
}

func numbered(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}
