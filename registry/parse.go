package registry

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Kind is what a request asks for.
type Kind uint8

// The kinds of requests.
const (
	KindUnknown Kind = iota
	KindBase
	KindBlob
	KindDeleteBlob
	KindStartUpload
	KindPushBlob
	KindMountBlob
	KindUploadStatus
	KindWriteUpload
	KindCommitUpload
	KindCancelUpload
	KindManifest
	KindPushManifest
	KindDeleteManifest
	KindDeleteTag
	KindTags
	KindRepositories
	KindReferrers
	KindSearch
	KindSearchBase
	kinds
)

// Request is a request to the API, read from its method and URL alone.
type Request struct {
	Kind   Kind
	Repo   string
	Ref    Reference     // of a manifest
	Digest digest.Digest // of a blob, or the subject of referrers
	Upload string        // id of a session
	Alg    digest.Algorithm
	From   string   // repository to mount from, or empty
	Tags   []string // to point at a manifest that is pushed by digest
	Page   Page
	Filter string // artifact type of referrers
	Term   string // to search for
}

// Page is the part of a list that is asked for.
type Page struct {
	N    int    // how many; if Set is false, as many as the registry likes
	Set  bool   // N was given
	Last string // the last element of the page before
}

// Parse reads a request from its method and URL. It is a pure function. Errors
// are of this package; ErrMethod and ErrRouteUnknown say that there is no such
// request. path is the URL's path, still escaped.
//
// The routes are those of the specification, "Endpoints", the catalog of
// Docker's registry API, and the search of its first version.
func Parse(method, path, rawQuery string) (Request, error) {
	path, err := unescape(path)
	if err != nil {
		return Request{}, err
	}
	var query url.Values
	if rawQuery != "" {
		if query, err = url.ParseQuery(rawQuery); err != nil {
			return Request{}, ErrRouteUnknown.With("malformed query in the URL")
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v2/"); ok {
		return parseV2(method, rest, query)
	}
	if rest, ok := strings.CutPrefix(path, "/v1/"); ok {
		return parseV1(method, rest, query)
	}
	if path == "/v2" {
		return Request{Kind: KindBase}, allow(method, get)
	}
	return Request{}, ErrRouteUnknown
}

// unescape undoes the escapes of a path. An escaped slash is refused: it must
// not become one that separates.
func unescape(path string) (string, error) {
	if !strings.Contains(path, "%") {
		return path, nil
	}
	u, err := url.PathUnescape(path)
	if err != nil || strings.Count(u, "/") != strings.Count(path, "/") {
		return "", ErrNameInvalid.With("malformed escape in the URL's path")
	}
	return u, nil
}

func parseV1(method, rest string, query url.Values) (Request, error) {
	req := Request{Kind: KindSearchBase}
	switch rest {
	case "search":
		req.Kind = KindSearch
		req.Term = query.Get("q")
		if n, err := strconv.Atoi(query.Get("n")); err == nil {
			req.Page = Page{N: n, Set: true}
		}
	case "_ping":
	default:
		return Request{}, ErrRouteUnknown
	}
	return req, allow(method, get)
}

// parseV2 reads what follows /v2/. A repository's name may have components such
// as "blobs" or "tags": it is the end of the path that says what is asked for.
func parseV2(method, rest string, query url.Values) (Request, error) {
	switch rest {
	case "":
		return Request{Kind: KindBase}, allow(method, get)
	case "_catalog":
		return parseList(Request{Kind: KindRepositories}, method, query)
	}
	name, last := cutLast(rest)
	if uploads, ok := strings.CutSuffix(name, "/blobs/uploads"); ok {
		return parseUpload(method, uploads, last, query)
	}
	if uploads, ok := strings.CutSuffix(name, "/blobs"); ok && last == "uploads" { // some clients leave the slash out
		return parseUpload(method, uploads, "", query)
	}
	name, kind := cutLast(name)
	var parse func(req Request, method, last string, query url.Values) (Request, error)
	switch kind {
	case "blobs":
		parse = parseBlob
	case "manifests":
		parse = parseManifestRequest
	case "referrers":
		parse = parseReferrers
	case "tags":
		parse = parseTagList
	}
	if parse == nil || name == "" {
		return Request{}, ErrRouteUnknown
	}
	if err := checkRepo(name); err != nil {
		return Request{}, err
	}
	return parse(Request{Repo: name}, method, last, query)
}

// cutLast cuts s at its last slash.
func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

func checkRepo(name string) error {
	if !ValidRepository(name) {
		return ErrNameInvalid.With("invalid repository name %q: want lower-case letters and digits, separated by '.', '_', '__', '-' or '/'", clip(name))
	}
	return nil
}

func parseBlob(req Request, method, last string, _ url.Values) (Request, error) {
	req.Kind = KindBlob
	if method == http.MethodDelete {
		req.Kind = KindDeleteBlob
	}
	if err := allow(method, get, http.MethodDelete); err != nil {
		return Request{}, err
	}
	d, err := ParseDigest(last)
	req.Digest = d
	return req, err
}

func parseManifestRequest(req Request, method, last string, query url.Values) (Request, error) {
	ref, err := ParseReference(last)
	if err != nil {
		return Request{}, err
	}
	req.Ref, req.Kind = ref, KindManifest
	switch {
	case method == http.MethodPut:
		req.Kind = KindPushManifest
		req.Tags, err = parseTags(ref, query["tag"])
	case method == http.MethodDelete && ref.Tag != "":
		req.Kind = KindDeleteTag
	case method == http.MethodDelete:
		req.Kind = KindDeleteManifest
	default:
		err = allow(method, get, http.MethodPut, http.MethodDelete)
	}
	return req, err
}

// parseTags reads the tags that a manifest is pushed with (specification, main
// branch, "Pushing Manifests").
func parseTags(ref Reference, tags []string) ([]string, error) {
	if ref.Tag != "" {
		if len(tags) > 0 {
			return nil, ErrTagInvalid.With("the parameter tag goes with a push by digest, not by tag")
		}
		return []string{ref.Tag}, nil
	}
	for _, t := range tags {
		if !ValidTag(t) {
			return nil, ErrTagInvalid.With("invalid tag %q", clip(t))
		}
	}
	return tags, nil
}

func parseReferrers(req Request, method, last string, query url.Values) (Request, error) {
	d, err := ParseDigest(last)
	if err != nil {
		return Request{}, err
	}
	req.Kind, req.Digest, req.Filter = KindReferrers, d, query.Get("artifactType")
	if after := query.Get("last"); after != "" {
		if _, err := ParseDigest(after); err != nil {
			return Request{}, err
		}
	}
	return parseList(req, method, query)
}

func parseTagList(req Request, method, last string, query url.Values) (Request, error) {
	if last != "list" {
		return Request{}, ErrRouteUnknown
	}
	req.Kind = KindTags
	return parseList(req, method, query)
}

func parseList(req Request, method string, query url.Values) (Request, error) {
	req.Page.Last = query.Get("last")
	if s := query.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return Request{}, ErrPageInvalid.With("parameter n is %q: want a number, 0 or more", clip(s))
		}
		req.Page.N, req.Page.Set = n, true
	}
	if strings.ContainsRune(req.Page.Last, 0) || len(req.Page.Last) > MaxRepository {
		return Request{}, ErrPageInvalid.With("parameter last is no name")
	}
	return req, allow(method, get)
}

func parseUpload(method, name, id string, query url.Values) (_ Request, err error) {
	if err := checkRepo(name); err != nil {
		return Request{}, err
	}
	req := Request{Repo: name, Upload: id}
	switch {
	case id == "" && method == http.MethodPost:
		return parseStart(req, query)
	case id == "":
		return Request{}, allow(method, http.MethodPost)
	case method == http.MethodPatch:
		req.Kind = KindWriteUpload
	case method == http.MethodPut:
		req.Kind = KindCommitUpload
		req.Digest, err = ParseDigest(query.Get("digest"))
	case method == http.MethodDelete:
		req.Kind = KindCancelUpload
	default:
		req.Kind = KindUploadStatus
		err = allow(method, get, http.MethodPatch, http.MethodPut, http.MethodDelete)
	}
	return req, err
}

func parseStart(req Request, query url.Values) (_ Request, err error) {
	req.Kind, req.Alg = KindStartUpload, digest.SHA256
	if query.Has("digest") {
		req.Kind = KindPushBlob
		req.Digest, err = ParseDigest(query.Get("digest"))
		return req, err
	}
	if alg := query.Get("digest-algorithm"); alg != "" {
		if req.Alg = digest.Algorithm(alg); req.Alg != digest.SHA256 && req.Alg != digest.SHA512 {
			return Request{}, ErrDigestInvalid.With("digest algorithm %q is not supported: want sha256 or sha512", clip(alg))
		}
	}
	if query.Has("mount") {
		req.Kind, req.From = KindMountBlob, query.Get("from")
		if req.From != "" && !ValidRepository(req.From) {
			return Request{}, ErrNameInvalid.With("invalid repository name %q in parameter from", clip(req.From))
		}
		req.Digest, err = ParseDigest(query.Get("mount"))
	}
	return req, err
}

// get stands for GET and HEAD.
const get = http.MethodGet

// allow fails with ErrMethod unless method is one of methods.
func allow(method string, methods ...string) error {
	for _, m := range methods {
		if method == m || m == get && method == http.MethodHead {
			return nil
		}
	}
	return ErrMethod.With("method %s is not allowed here: want %s", clip(method), strings.Join(methods, ", "))
}
