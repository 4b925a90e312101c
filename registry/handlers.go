package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// base answers that this is a registry (specification, "Determining Support").
// Docker looks for the header.
func (x *exchange) base() error {
	x.w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	return x.bytes("application/json", []byte("{}"))
}

// blob serves a blob or a part of it (specification, "Pulling blobs").
func (x *exchange) blob() error {
	if x.r.Method == http.MethodHead {
		desc, err := x.registry.StatBlob(x.ctx(), x.Repo, x.Digest)
		if err != nil {
			return err
		}
		_, err = x.blobHeaders(desc)
		return err
	}
	f, desc, err := x.registry.Blob(x.ctx(), x.Repo, x.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	if moved, err := x.redirect(f, desc.Digest); moved || err != nil {
		return err
	}
	part, err := x.blobHeaders(desc)
	if err != nil || part.n == 0 {
		return err
	}
	if part.off > 0 {
		if _, err := f.Seek(part.off, io.SeekStart); err != nil {
			return err
		}
	}
	return x.send(f, part.n)
}

// blobHeaders sends the headers of an answer about a blob, and returns what part
// of it is to follow.
func (x *exchange) blobHeaders(desc Descriptor) (span, error) {
	if x.notModified(desc.Digest) {
		return span{}, nil
	}
	h := x.w.Header()
	part := span{0, desc.Size, false}
	etag := h.Get("Etag")
	if given := x.r.Header.Get("Range"); given != "" && matchesIfRange(x.r.Header.Get("If-Range"), etag) {
		var err error
		if part, err = parseRange(given, desc.Size); err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", desc.Size))
			return span{}, err
		}
	}
	h["Accept-Ranges"] = []string{"bytes"}
	h["Content-Type"] = []string{desc.MediaType}
	h["Content-Length"] = []string{strconv.FormatInt(part.n, 10)}
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.off, part.off+part.n-1, desc.Size))
	}
	x.w.WriteHeader(status)
	return part, nil
}

func matchesIfRange(given, etag string) bool { return given == "" || given == etag }

// sendPiece is how many bytes a client has the time of BodyTimeout for.
const sendPiece = 1 << 20

// send sends n bytes of f, a plain file by sendfile. If f fails, or is shorter
// than it should be, the connection is broken off.
func (x *exchange) send(f io.Reader, n int64) error {
	control := x.body.control
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()                     // the next answer has its own
	more := func() { _ = control.SetWriteDeadline(time.Now().Add(x.o.BodyTimeout)) } // a recorder in a test has none
	_, plain := f.(*os.File)
	if _, piecer := f.(Piecer); !plain && !piecer {
		f = &source{r: f, most: x.o.BodyTimeout / 4, more: more}
	}
	for n > 0 {
		more()
		sent, err := x.sendPiece(f, min(n, sendPiece), more)
		n -= sent
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("blob %s has %d bytes too few: %w", x.Digest, n, io.ErrUnexpectedEOF)
			x.logFailure(err, x.w.Header().Get("X-Request-Id"))
			return err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Piecer is the reader of a blob whose bytes come to a file while they are read.
type Piecer interface {
	// Piece waits for what is to be read next, and returns a file that stands there
	// with how many bytes may be read from it, at most most; the reader is behind them
	// then. At the end it fails with io.EOF.
	Piece(most int64) (f *os.File, n int64, err error)
}

// sendPiece sends up to n bytes. more gives the client more time.
func (x *exchange) sendPiece(f io.Reader, n int64, more func()) (int64, error) {
	p, ok := f.(Piecer)
	if !ok {
		return io.CopyN(&x.w, f, n)
	}
	file, n, err := p.Piece(n)
	if err != nil {
		return 0, err
	}
	more()
	return io.CopyN(&x.w, file, n)
}

// source is content that may have to be waited for: that is not its reader's time.
type source struct {
	r      io.Reader
	waited time.Duration
	most   time.Duration // before the reader gets more time
	more   func()
}

func (s *source) Read(p []byte) (int, error) {
	begun := time.Now()
	n, err := s.r.Read(p)
	if s.waited += time.Since(begun); s.waited > s.most {
		s.waited = 0
		s.more()
	}
	return n, err
}

// notModified answers with 304 if the client has the content already (RFC 9110,
// section 13.1.2), and else sets the headers that name the content.
func (x *exchange) notModified(d digest.Digest) bool {
	h := x.w.Header()
	h["Docker-Content-Digest"] = []string{string(d)}
	h["Etag"] = []string{`"` + string(d) + `"`}
	given := x.r.Header.Get("If-None-Match")
	if given == "" {
		return false
	}
	for tag := range strings.SplitSeq(given, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || strings.Trim(tag, `"`) == string(d) {
			x.w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

func (x *exchange) deleteBlob() error {
	if err := x.registry.DeleteBlob(x.ctx(), x.Repo, x.Digest); err != nil {
		return err
	}
	return x.empty(http.StatusAccepted)
}

// startUpload begins an upload session (specification, "Pushing blobs").
func (x *exchange) startUpload() error {
	id, err := x.registry.StartUpload(x.ctx(), x.Repo, x.Alg)
	if err != nil {
		return err
	}
	return x.uploadState(http.StatusAccepted, id, 0)
}

// uploadState answers with how far a session is. The session is in the path of
// Location, which is relative, so that it is right behind any proxy.
func (x *exchange) uploadState(status int, id string, size int64) error {
	h := x.w.Header()
	h.Set("Location", "/v2/"+x.Repo+"/blobs/uploads/"+id)
	h.Set("Docker-Upload-Uuid", id)
	h.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	return x.empty(status)
}

func (x *exchange) uploadStatus() error {
	size, err := x.registry.UploadSize(x.ctx(), x.Repo, x.Upload)
	if err != nil {
		return err
	}
	return x.uploadState(http.StatusNoContent, x.Upload, size)
}

func (x *exchange) writeUpload() error {
	chunk, err := parseChunk(x.r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	size, err := x.registry.WriteUpload(x.ctx(), x.Repo, x.Upload, chunk, &x.body)
	if err != nil {
		return err
	}
	return x.uploadState(http.StatusAccepted, x.Upload, size)
}

func (x *exchange) commitUpload() error {
	chunk, err := parseChunk(x.r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	if x.r.ContentLength == 0 {
		chunk = Chunk{} // some clients send the range of nothing
	}
	desc, err := x.registry.CommitUpload(x.ctx(), x.Repo, x.Upload, chunk, &x.body, x.Digest)
	if err != nil {
		return err
	}
	return x.createdBlob(desc)
}

func (x *exchange) createdBlob(desc Descriptor) error {
	return x.created("/v2/"+x.Repo+"/blobs/"+string(desc.Digest), desc)
}

func (x *exchange) cancelUpload() error {
	if err := x.registry.CancelUpload(x.ctx(), x.Repo, x.Upload); err != nil {
		return err
	}
	return x.empty(http.StatusNoContent)
}

// pushBlob takes a blob in one request (specification, "Single POST").
func (x *exchange) pushBlob() error {
	desc, err := x.registry.PushBlob(x.ctx(), x.Repo, x.Digest, &x.body)
	if err != nil {
		return err
	}
	return x.createdBlob(desc)
}

// mountBlob mounts a blob, or begins an upload of it if there is none to mount
// (specification, "Mounting a blob from another repository").
func (x *exchange) mountBlob() error {
	desc, err := x.registry.MountBlob(x.ctx(), x.Repo, x.From, x.Digest)
	if errors.Is(err, ErrBlobUnknown) {
		x.Alg = x.Digest.Algorithm()
		return x.startUpload()
	}
	if err != nil {
		return err
	}
	return x.createdBlob(desc)
}

// manifest serves a manifest (specification, "Pulling manifests").
func (x *exchange) manifest() (err error) {
	var data []byte
	var desc Descriptor
	if x.r.Method == http.MethodHead {
		desc, err = x.registry.StatManifest(x.ctx(), x.Repo, x.Ref)
	} else {
		data, desc, err = x.registry.Manifest(x.ctx(), x.Repo, x.Ref)
	}
	if err != nil {
		return err
	}
	if !accepts(x.r.Header["Accept"], desc.MediaType) {
		return ErrManifestUnknown.With("manifest %s is of type %s, which the request's Accept does not name", x.Ref, desc.MediaType)
	}
	if x.notModified(desc.Digest) {
		return nil
	}
	if x.r.Method == http.MethodHead {
		h := x.w.Header()
		h["Content-Type"] = []string{desc.MediaType}
		h["Content-Length"] = []string{strconv.FormatInt(desc.Size, 10)}
		x.w.WriteHeader(http.StatusOK)
		return nil
	}
	return x.bytes(desc.MediaType, data)
}

// accepts says whether the client takes content of a media type (RFC 9110,
// section 12.5.1; here to accept little is to accept, and nothing is all). An
// old client that does not know a kind of manifest must not get it and believe
// that it is another: it is told that there is none of the kinds it knows.
func accepts(accept []string, mediaType string) bool {
	if len(accept) == 0 {
		return true
	}
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case mediaType, "*/*", "application/*", "":
				if strings.Trim(strings.ReplaceAll(params, " ", ""), "0.") != "q=" {
					return true
				}
			}
		}
	}
	return false
}

// pushManifest stores a manifest (specification, "Pushing Manifests").
func (x *exchange) pushManifest() error {
	if x.r.ContentLength > MaxManifest {
		return ErrManifestTooLarge
	}
	push := ManifestPush{MediaType: x.r.Header.Get("Content-Type"), Digest: x.Ref.Digest, Tags: x.Tags}
	if a, ok := x.registry.(Admitter); ok {
		if err := a.AdmitManifest(x.ctx(), x.Repo, push); err != nil {
			return err
		}
	}
	data, release, err := x.large.read(&x.body, x.r.ContentLength)
	defer release()
	if err != nil {
		return err
	}
	push.Data = data
	if push.Digest == "" {
		push.Digest = digest.FromBytes(data)
	}
	done, err := x.registry.PushManifest(x.ctx(), x.Repo, push)
	if err != nil {
		return err
	}
	h := x.w.Header()
	if done.Subject != "" {
		h.Set("OCI-Subject", string(done.Subject))
	}
	if x.Ref.Digest != "" {
		for _, t := range x.Tags {
			h.Add("OCI-Tag", t)
		}
	}
	return x.created("/v2/"+x.Repo+"/manifests/"+string(push.Digest), done.Descriptor)
}

func (x *exchange) deleteManifest() error {
	if err := x.registry.DeleteManifest(x.ctx(), x.Repo, x.Ref.Digest); err != nil {
		return err
	}
	return x.empty(http.StatusAccepted)
}

func (x *exchange) deleteTag() error {
	if err := x.registry.DeleteTag(x.ctx(), x.Repo, x.Ref.Tag); err != nil {
		return err
	}
	return x.empty(http.StatusAccepted)
}

var _ Interrupter = (*body)(nil)
