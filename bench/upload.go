package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushBlob pushes a blob as oras and containerd do: POST, then PUT with all of
// it.
func (c *conn) pushBlob(addr, repo string, d digest.Digest, body ...[]byte) error {
	to, err := c.startUpload(addr, repo)
	if err != nil {
		return err
	}
	_, err = c.do(http.StatusCreated, request(http.MethodPut, addr, withDigest(to, d),
		"Content-Type: application/octet-stream", fmt.Sprint("Content-Length: ", size(body))), body...)
	return err
}

// patchBlob pushes a blob as docker does: POST, PATCH with all of it in a body
// of unknown length, PUT without any.
func (c *conn) patchBlob(addr, repo string, d digest.Digest, body ...[]byte) error {
	to, err := c.startUpload(addr, repo)
	if err != nil {
		return err
	}
	a, err := c.do(http.StatusAccepted, request(http.MethodPatch, addr, to,
		"Content-Type: application/octet-stream", "Transfer-Encoding: chunked"), chunked(body)...)
	if err != nil {
		return err
	}
	_, err = c.do(http.StatusCreated, request(http.MethodPut, addr, withDigest(local(a.location, addr), d), "Content-Length: 0"))
	return err
}

func (c *conn) startUpload(addr, repo string) (string, error) {
	a, err := c.do(http.StatusAccepted, request(http.MethodPost, addr, "/v2/"+repo+"/blobs/uploads/", "Content-Length: 0"))
	return local(a.location, addr), err
}

// putManifest pushes a manifest by tag.
func (c *conn) putManifest(addr, repo, tag string, manifest []byte) error {
	_, err := c.do(http.StatusCreated, request(http.MethodPut, addr, "/v2/"+repo+"/manifests/"+tag,
		"Content-Type: "+ocispec.MediaTypeImageManifest, fmt.Sprint("Content-Length: ", len(manifest))), manifest)
	return err
}

// pushImage pushes the blobs of an image, then its manifest.
func (c *conn) pushImage(addr, repo, tag string, img image) error {
	for i, b := range img.blobs {
		if err := c.pushBlob(addr, repo, img.digests[i], b); err != nil {
			return err
		}
	}
	return c.putManifest(addr, repo, tag, img.manifest)
}

// pushNewImage pushes an image that was not there before.
func (c *conn) pushNewImage(addr, repo, tag string, src *rand.ChaCha8) error {
	img, err := newImage(src)
	if err != nil {
		return err
	}
	return c.pushImage(addr, repo, tag, img)
}

// local makes a Location a target on the same server: it may be absolute.
func local(location, addr string) string {
	return strings.TrimPrefix(strings.TrimPrefix(location, "http://"), addr)
}

func withDigest(location string, d digest.Digest) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + string(d)
}

func size(body [][]byte) int64 {
	var n int64
	for _, b := range body {
		n += int64(len(b))
	}
	return n
}

// chunked encodes body in the chunks of 32 KiB that docker sends.
func chunked(body [][]byte) [][]byte {
	const chunk = 32 << 10
	var out [][]byte
	for _, b := range body {
		for len(b) > 0 {
			n := min(chunk, len(b))
			out = append(out, fmt.Appendf(nil, "%x\r\n", n), b[:n], []byte("\r\n"))
			b = b[n:]
		}
	}
	return append(out, []byte("0\r\n\r\n"))
}
