package e2e

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// matrixRoute is one way to use the API.
type matrixRoute struct {
	name   string
	action string // it needs this one; "signin" if one just has to sign in
	status int    // if it is done
	// missing is the status, and code the error, of what is not there.
	missing int
	code    string
	// request makes the request for a repository. If it is going to be done, it is
	// about something that nothing else needs.
	request func(f *matrixFixture, repo string, done bool) matrixRequest
}

type matrixRequest struct {
	method, path string
	body         []byte
	header       []string
}

// matrixFixture makes what requests are about, by root.
type matrixFixture struct {
	g *guarded
	n atomic.Int64

	blob, manifest, referrer []byte            // in each repository; manifest has the tag v1
	sessions                 map[string]string // of uploads, one in each
}

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

func newMatrixFixture(t *testing.T, g *guarded) *matrixFixture {
	t.Helper()
	f := &matrixFixture{g: g, blob: []byte(`{"this":"is in each repository"}`), sessions: map[string]string{}}
	f.manifest = imageManifest(f.blob)
	f.referrer = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"test/x","config":%s,"layers":[],"subject":%s}`,
		ociManifest, mustJSON(descriptorOf("application/vnd.oci.empty.v1+json", f.blob)), mustJSON(descriptorOf(ociManifest, f.manifest)))
	for _, repo := range matrixRepos {
		f.push(repo, f.blob)
		f.tag(repo, "v1", f.manifest)
		f.tag(repo, digest.FromBytes(f.referrer).String(), f.referrer)
		f.sessions[repo] = f.upload(repo)
	}
	return f
}

func (f *matrixFixture) push(repo string, data []byte) digest.Digest {
	f.g.t.Helper()
	d := digest.FromBytes(data)
	f.g.send(f.g.root, http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), data)
	return d
}

func (f *matrixFixture) tag(repo, ref string, manifest []byte) {
	f.g.t.Helper()
	f.g.send(append([]string{"Content-Type", ociManifest}, f.g.root...), http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+ref, manifest)
}

// fresh is a blob that there was not before.
func (f *matrixFixture) fresh() []byte { return fmt.Appendf(nil, `{"number":%d}`, f.n.Add(1)) }

// freshManifest is the same of a manifest, of a blob that each repository has.
func (f *matrixFixture) freshManifest() []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[],"annotations":{"number":"%d"}}`,
		ociManifest, mustJSON(descriptorOf("application/vnd.oci.image.config.v1+json", f.blob)), f.n.Add(1))
}

// upload begins a session, and returns the path below that of its repository.
func (f *matrixFixture) upload(repo string) string {
	f.g.t.Helper()
	a := f.g.send(f.g.root, http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	return a.header.Get("Location")[len("/v2/"+repo):]
}

// intact fails the test if what was refused has changed anything.
func (f *matrixFixture) intact() {
	for _, repo := range matrixRepos {
		for _, ref := range []string{"manifests/v1", "manifests/" + digest.FromBytes(f.referrer).String(), "blobs/" + digest.FromBytes(f.blob).String()} {
			f.g.send(f.g.root, http.StatusOK, "GET", "/v2/"+repo+"/"+ref, nil)
		}
		if a := f.g.send(f.g.root, http.StatusNoContent, "GET", "/v2/"+repo+f.sessions[repo], nil); a.header.Get("Range") != "0-0" {
			f.g.t.Errorf("the session of %s has become %s", repo, a.header.Get("Range"))
		}
	}
}

// matrixRoutes are all the routes of one repository.
func matrixRoutes() []matrixRoute {
	const notFound = http.StatusNotFound
	get := func(name, method, path string, of func(f *matrixFixture) string) matrixRoute {
		return matrixRoute{name: name, action: "pull", status: http.StatusOK, missing: notFound, request: func(f *matrixFixture, repo string, _ bool) matrixRequest {
			return matrixRequest{method: method, path: "/v2/" + repo + path + of(f)}
		}}
	}
	nothing := func(*matrixFixture) string { return "" }
	manifest := func(f *matrixFixture) string { return digest.FromBytes(f.manifest).String() }
	blob := func(f *matrixFixture) string { return digest.FromBytes(f.blob).String() }
	coded := func(code string, routes ...matrixRoute) []matrixRoute {
		for i := range routes {
			routes[i].code = code
		}
		return routes
	}
	routes := coded("MANIFEST_UNKNOWN",
		get("GET tag", "GET", "/manifests/v1", nothing), get("HEAD tag", "HEAD", "/manifests/v1", nothing),
		get("GET manifest", "GET", "/manifests/", manifest), get("HEAD manifest", "HEAD", "/manifests/", manifest))
	routes = append(routes, coded("BLOB_UNKNOWN", get("GET blob", "GET", "/blobs/", blob), get("HEAD blob", "HEAD", "/blobs/", blob))...)
	routes = append(routes, coded("NAME_UNKNOWN", get("tags", "GET", "/tags/list", nothing), get("tags page", "GET", "/tags/list?n=1", nothing))...)
	referrers := get("referrers", "GET", "/referrers/", manifest)
	referrers.missing = http.StatusOK // what is not there has none
	return append(append(routes, referrers), append(matrixPushes(), matrixDeletes()...)...)
}

// matrixPushes are the routes that add something.
func matrixPushes() (routes []matrixRoute) {
	add := func(name string, status int, request func(f *matrixFixture, repo string, done bool) matrixRequest) {
		routes = append(routes, matrixRoute{name: name, action: "push", status: status, request: func(f *matrixFixture, repo string, done bool) matrixRequest {
			r := request(f, repo, done)
			r.path = "/v2/" + repo + r.path
			return r
		}})
	}
	session := func(name, method string, status int, digested bool) {
		add(name, status, func(f *matrixFixture, repo string, done bool) matrixRequest {
			r := matrixRequest{method: method, path: f.sessions[repo]}
			if done {
				r.path = f.upload(repo)
			}
			if digested {
				r.body = f.fresh()
				r.path += "?digest=" + digest.FromBytes(r.body).String()
			}
			return r
		})
	}
	add("upload", http.StatusAccepted, func(*matrixFixture, string, bool) matrixRequest {
		return matrixRequest{method: "POST", path: "/blobs/uploads/"}
	})
	add("upload without slash", http.StatusAccepted, func(*matrixFixture, string, bool) matrixRequest {
		return matrixRequest{method: "POST", path: "/blobs/uploads?digest-algorithm=sha512"}
	})
	add("push blob", http.StatusCreated, func(f *matrixFixture, _ string, _ bool) matrixRequest {
		b := f.fresh()
		return matrixRequest{method: "POST", path: "/blobs/uploads/?digest=" + digest.FromBytes(b).String(), body: b}
	})
	session("upload status", "GET", http.StatusNoContent, false)
	session("upload write", "PATCH", http.StatusAccepted, false)
	session("upload commit", "PUT", http.StatusCreated, true)
	session("upload cancel", "DELETE", http.StatusNoContent, false)
	for _, ref := range []string{"tag", "digest"} {
		add("push by "+ref, http.StatusCreated, func(f *matrixFixture, _ string, done bool) matrixRequest {
			m := f.freshManifest()
			path := "/manifests/v1" // which must not be moved
			switch {
			case ref == "digest":
				path = "/manifests/" + digest.FromBytes(m).String() + "?tag=other"
			case done:
				path = fmt.Sprintf("/manifests/t%d", f.n.Add(1))
			}
			return matrixRequest{method: "PUT", path: path, body: m, header: []string{"Content-Type", ociManifest}}
		})
	}
	for _, from := range []string{"public/app", "pull/app", "push/app", "all/none/app", "hidden/app", "hidden/gone", "anywhere"} {
		add("mount from "+from, 0, func(f *matrixFixture, _ string, done bool) matrixRequest {
			b := f.blob
			if done {
				b = f.fresh() // lest the repository have it already
			}
			path := "/blobs/uploads/?mount=" + digest.FromBytes(b).String()
			switch {
			case !done || from == "hidden/gone":
			case from == "anywhere":
				f.push("hidden/app", b)
			default:
				f.push(from, b)
			}
			if from != "anywhere" {
				path += "&from=" + from
			}
			return matrixRequest{method: "POST", path: path}
		})
	}
	return routes
}

// matrixDeletes are the routes that remove something.
func matrixDeletes() []matrixRoute {
	route := func(name string, request func(f *matrixFixture, repo string, done bool) (path string)) matrixRoute {
		return matrixRoute{name: name, action: "delete", status: http.StatusAccepted, request: func(f *matrixFixture, repo string, done bool) matrixRequest {
			return matrixRequest{method: "DELETE", path: "/v2/" + repo + request(f, repo, done)}
		}}
	}
	return []matrixRoute{
		route("delete tag", func(f *matrixFixture, repo string, done bool) string {
			tag := "v1"
			if done {
				tag = fmt.Sprintf("t%d", f.n.Add(1))
				f.tag(repo, tag, f.manifest)
			}
			return "/manifests/" + tag
		}),
		route("delete manifest", func(f *matrixFixture, repo string, done bool) string {
			m := f.referrer
			if done {
				m = f.freshManifest()
				f.tag(repo, digest.FromBytes(m).String(), m)
			}
			return "/manifests/" + digest.FromBytes(m).String()
		}),
		route("delete blob", func(f *matrixFixture, repo string, done bool) string {
			b := f.blob
			if done {
				b = f.fresh()
				f.push(repo, b)
			}
			return "/blobs/" + digest.FromBytes(b).String()
		}),
	}
}

// matrixGlobals are the routes that are of no repository.
func matrixGlobals() []matrixRoute {
	route := func(name, action, method, path string) matrixRoute {
		return matrixRoute{name: name, action: action, status: http.StatusOK, request: func(*matrixFixture, string, bool) matrixRequest {
			return matrixRequest{method: method, path: path}
		}}
	}
	return []matrixRoute{
		route("base", "signin", "GET", "/v2/"), route("base HEAD", "signin", "HEAD", "/v2/"), route("base without slash", "signin", "GET", "/v2"),
		route("catalog", "", "GET", "/v2/_catalog"), route("catalog page", "", "GET", "/v2/_catalog?n=1000&last=a"),
		route("search", "", "GET", "/v1/search?q=app"), route("search base", "", "GET", "/v1/_ping"),
	}
}
