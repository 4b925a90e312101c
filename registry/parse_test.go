package registry

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var (
	d256 = digest.SHA256.FromString("x")
	d512 = digest.SHA512.FromString("x")
)

func TestParse(t *testing.T) {
	s := string(d256)
	for _, c := range []struct {
		method, url string
		want        Request
	}{
		{"GET", "/v2/", Request{Kind: KindBase}},
		{"HEAD", "/v2", Request{Kind: KindBase}},
		{"GET", "/v2/_catalog?n=5&last=b", Request{Kind: KindRepositories, Page: Page{5, true, "b"}}},
		{"GET", "/v2/a/b/tags/list", Request{Kind: KindTags, Repo: "a/b"}},
		{"GET", "/v2/a/tags/list?n=0", Request{Kind: KindTags, Repo: "a", Page: Page{0, true, ""}}},
		{"GET", "/v2/a/manifests/tags/list", Request{Kind: KindTags, Repo: "a/manifests"}},
		{"GET", "/v2/a/manifests/latest", Request{Kind: KindManifest, Repo: "a", Ref: Reference{Tag: "latest"}}},
		{"HEAD", "/v2/a/manifests/" + s, Request{Kind: KindManifest, Repo: "a", Ref: Reference{Digest: d256}}},
		{"GET", "/v2/a/manifests/" + strings.Replace(s, ":", "%3A", 1), Request{Kind: KindManifest, Repo: "a", Ref: Reference{Digest: d256}}},
		{"GET", "/v2/blobs/uploads/manifests/x", Request{Kind: KindManifest, Repo: "blobs/uploads", Ref: Reference{Tag: "x"}}},
		{"PUT", "/v2/a/manifests/v1", Request{Kind: KindPushManifest, Repo: "a", Ref: Reference{Tag: "v1"}, Tags: []string{"v1"}}},
		{"PUT", "/v2/a/manifests/" + s + "?tag=v1&tag=v2", Request{Kind: KindPushManifest, Repo: "a", Ref: Reference{Digest: d256}, Tags: []string{"v1", "v2"}}},
		{"DELETE", "/v2/a/manifests/v1", Request{Kind: KindDeleteTag, Repo: "a", Ref: Reference{Tag: "v1"}}},
		{"DELETE", "/v2/a/manifests/" + s, Request{Kind: KindDeleteManifest, Repo: "a", Ref: Reference{Digest: d256}}},
		{"GET", "/v2/a/blobs/" + string(d512), Request{Kind: KindBlob, Repo: "a", Digest: d512}},
		{"DELETE", "/v2/a/blobs/" + s, Request{Kind: KindDeleteBlob, Repo: "a", Digest: d256}},
		{"POST", "/v2/a/blobs/uploads/", Request{Kind: KindStartUpload, Repo: "a", Alg: digest.SHA256}},
		{"POST", "/v2/a/blobs/uploads", Request{Kind: KindStartUpload, Repo: "a", Alg: digest.SHA256}},
		{"POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512", Request{Kind: KindStartUpload, Repo: "a", Alg: digest.SHA512}},
		{"POST", "/v2/a/blobs/uploads/?digest=" + s, Request{Kind: KindPushBlob, Repo: "a", Digest: d256}},
		{"POST", "/v2/a/blobs/uploads/?mount=" + s + "&from=b/c", Request{Kind: KindMountBlob, Repo: "a", Digest: d256, From: "b/c", Alg: digest.SHA256}},
		{"POST", "/v2/a/blobs/uploads/?mount=" + s, Request{Kind: KindMountBlob, Repo: "a", Digest: d256, Alg: digest.SHA256}},
		{"GET", "/v2/a/blobs/uploads/id", Request{Kind: KindUploadStatus, Repo: "a", Upload: "id"}},
		{"PATCH", "/v2/a/blobs/uploads/id", Request{Kind: KindWriteUpload, Repo: "a", Upload: "id"}},
		{"PUT", "/v2/a/blobs/uploads/id?digest=" + s, Request{Kind: KindCommitUpload, Repo: "a", Upload: "id", Digest: d256}},
		{"DELETE", "/v2/a/blobs/uploads/id", Request{Kind: KindCancelUpload, Repo: "a", Upload: "id"}},
		{"GET", "/v2/a/referrers/" + s + "?artifactType=x/y", Request{Kind: KindReferrers, Repo: "a", Digest: d256, Filter: "x/y"}},
		{"GET", "/v1/search?q=mon&n=3", Request{Kind: KindSearch, Term: "mon", Page: Page{3, true, ""}}},
		{"GET", "/v1/_ping", Request{Kind: KindSearchBase}},
	} {
		path, query, _ := strings.Cut(c.url, "?")
		got, err := Parse(c.method, path, query)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.url, err)
			continue
		}
		if !equalRequests(got, c.want) {
			t.Errorf("%s %s:\n got %+v\nwant %+v", c.method, c.url, got, c.want)
		}
	}
}

func equalRequests(a, b Request) bool {
	tags := strings.Join(a.Tags, " ") == strings.Join(b.Tags, " ")
	if a.Kind != KindStartUpload && a.Kind != KindMountBlob {
		a.Alg, b.Alg = "", ""
	}
	a.Tags, b.Tags = nil, nil
	return tags && a.Kind == b.Kind && a.Repo == b.Repo && a.Ref == b.Ref && a.Digest == b.Digest && a.Upload == b.Upload &&
		a.Alg == b.Alg && a.From == b.From && a.Page == b.Page && a.Filter == b.Filter && a.Term == b.Term
}

func TestParseErrors(t *testing.T) {
	s := string(d256)
	for _, c := range []struct {
		method, url string
		want        *Error
	}{
		{"GET", "/", ErrRouteUnknown},
		{"GET", "", ErrRouteUnknown},
		{"GET", "/v3/", ErrRouteUnknown},
		{"GET", "/v2/a", ErrRouteUnknown},
		{"GET", "/v2/a/tags/other", ErrRouteUnknown},
		{"GET", "/v2/manifests/x", ErrRouteUnknown},
		{"GET", "/v2//manifests/x", ErrRouteUnknown},
		{"GET", "/v2/../manifests/x", ErrNameInvalid},
		{"GET", "/v2/a/../b/manifests/x", ErrNameInvalid},
		{"GET", "/v2/a%2Fb/manifests/x", ErrNameInvalid},
		{"GET", "/v2/a%2fb/manifests/x", ErrNameInvalid},
		{"GET", "/v2/%2e%2e/manifests/x", ErrNameInvalid},
		{"GET", "/v2/a%00/manifests/x", ErrNameInvalid},
		{"GET", "/v2/A/manifests/x", ErrNameInvalid},
		{"GET", "/v2/a//b/manifests/x", ErrNameInvalid},
		{"GET", "/v2/a/manifests/.x", ErrTagInvalid},
		{"GET", "/v2/a/manifests/", ErrTagInvalid},
		{"GET", "/v2/a/manifests/sha256:x", ErrDigestInvalid},
		{"GET", "/v2/a/blobs/latest", ErrDigestInvalid},
		{"PUT", "/v2/a/blobs/uploads/id", ErrDigestInvalid},
		{"PUT", "/v2/a/manifests/v1?tag=v2", ErrTagInvalid},
		{"PUT", "/v2/a/manifests/" + s + "?tag=.", ErrTagInvalid},
		{"POST", "/v2/a/blobs/uploads/?mount=" + s + "&from=../b", ErrNameInvalid},
		{"POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", ErrDigestInvalid},
		{"GET", "/v2/a/tags/list?n=-1", ErrPageInvalid},
		{"GET", "/v2/a/tags/list?n=x", ErrPageInvalid},
		{"GET", "/v2/a/tags/list?n=99999999999999999999", ErrPageInvalid},
		{"GET", "/v2/a/tags/list?n=1;", ErrRouteUnknown},
		{"GET", "/v2/a/referrers/" + s + "?last=x", ErrDigestInvalid},
		{"POST", "/v2/a/tags/list", ErrMethod},
		{"TRACE", "/v2/", ErrMethod},
		{"PATCH", "/v2/a/manifests/x", ErrMethod},
		{"POST", "/v2/a/blobs/" + s, ErrMethod},
		{"GET", "/v2/a/blobs/uploads/", ErrMethod},
	} {
		path, query, _ := strings.Cut(c.url, "?")
		got, err := Parse(c.method, path, query)
		if !errors.Is(err, c.want) {
			t.Errorf("%s %s: %v (%+v), want %v", c.method, c.url, err, got, c.want)
		}
	}
}

// Whatever comes in, what comes out is valid, and errors are the client's.
func FuzzParse(f *testing.F) {
	f.Add("GET", "/v2/a/b/manifests/latest", "n=1&last=x")
	f.Add("PUT", "/v2/a/blobs/uploads/x", "digest="+string(d256))
	f.Add("POST", "/v2/a%2Fb/blobs/uploads/", "mount="+string(d512)+"&from=%2e%2e")
	f.Add("GET", "/v2/a/referrers/"+string(d256), "artifactType=%00&last="+string(d256))
	f.Add("GET", "/v1/search", "q=%ff&n=-1")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		req, err := Parse(method, path, query)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status < 400 || e.Status > 499 {
				t.Errorf("%q %q %q: %v", method, path, query, err)
			}
			return
		}
		if req.Kind == KindUnknown || req.Kind >= kinds || routes[req.Kind].handle == nil {
			t.Fatalf("%q %q %q has kind %d", method, path, query, req.Kind)
		}
		if req.Repo != "" && !ValidRepository(req.Repo) || req.From != "" && !ValidRepository(req.From) {
			t.Errorf("%q lets repository %q, %q in", path, req.Repo, req.From)
		}
		for _, tag := range append(req.Tags, req.Ref.Tag) {
			if tag != "" && !ValidTag(tag) {
				t.Errorf("%q lets tag %q in", path, tag)
			}
		}
		for _, d := range []digest.Digest{req.Digest, req.Ref.Digest} {
			if d != "" && d.Validate() != nil {
				t.Errorf("%q lets digest %q in", path, d)
			}
		}
		if req.Kind == KindReferrers && req.Page.Last != "" && digest.Digest(req.Page.Last).Validate() != nil {
			t.Errorf("%q lets digest %q in", query, req.Page.Last)
		}
		// The path means the same when it is written another way.
		if u, err := url.PathUnescape(path); err == nil && !strings.Contains(u, "%") {
			again, err := Parse(method, u, query)
			if err != nil || !equalRequests(again, req) {
				t.Errorf("%q and %q differ: %+v and %+v, %v", path, u, req, again, err)
			}
		}
	})
}
