package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	aDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	aDesc   = `{"mediaType":"x/y","digest":"` + aDigest + `","size":1}`
)

func TestParseManifest(t *testing.T) {
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ocispec.MediaTypeImageManifest, aDesc, aDesc)
	for name, c := range map[string]struct {
		data, mediaType string
		ok              bool
	}{
		"image":                         {image, ocispec.MediaTypeImageManifest, true},
		"parameters of the type":        {image, ocispec.MediaTypeImageManifest + "; charset=utf-8", true},
		"type from the field":           {image, "", true},
		"type application/json":         {image, "application/json", true},
		"another type":                  {image, ocispec.MediaTypeImageIndex, false},
		"no type at all":                {fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[]}`, aDesc), "", false},
		"unknown type":                  {`{"schemaVersion":2}`, "text/plain", false},
		"schema 1":                      {`{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+json", false},
		"schema 1 as schema 2":          {fmt.Sprintf(`{"schemaVersion":1,"config":%s}`, aDesc), mediaTypeDockerManifest, false},
		"image that is an index too":    {fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[],"manifests":[]}`, aDesc), ocispec.MediaTypeImageManifest, false},
		"index that is an image too":    {`{"schemaVersion":2,"layers":[],"manifests":[]}`, ocispec.MediaTypeImageIndex, false},
		"index":                         {fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, aDesc), ocispec.MediaTypeImageIndex, true},
		"empty index":                   {`{"schemaVersion":2,"manifests":[]}`, mediaTypeDockerList, true},
		"artifact of a draft":           {fmt.Sprintf(`{"mediaType":%q,"blobs":[%s],"subject":%s}`, mediaTypeArtifact, aDesc, aDesc), mediaTypeArtifact, true},
		"no config":                     {`{"schemaVersion":2,"layers":[]}`, ocispec.MediaTypeImageManifest, false},
		"bad digest":                    {strings.ReplaceAll(image, aDigest, "sha256:../../etc/passwd"), ocispec.MediaTypeImageManifest, false},
		"negative size":                 {strings.ReplaceAll(image, `"size":1`, `"size":-1`), ocispec.MediaTypeImageManifest, false},
		"huge size":                     {strings.ReplaceAll(image, `"size":1`, `"size":1e30`), ocispec.MediaTypeImageManifest, false},
		"descriptor without media type": {strings.ReplaceAll(image, `"x/y"`, `""`), ocispec.MediaTypeImageManifest, false},
		"not JSON":                      {"hello", ocispec.MediaTypeImageManifest, false},
		"two documents":                 {image + image, ocispec.MediaTypeImageManifest, false},
		"an array":                      {"[]", ocispec.MediaTypeImageManifest, false},
		"null":                          {"null", ocispec.MediaTypeImageManifest, false},
		"empty":                         {"", ocispec.MediaTypeImageManifest, false},
		"deep":                          {strings.Repeat("[", 1<<20), ocispec.MediaTypeImageManifest, false},
	} {
		_, err := parseManifest([]byte(c.data), c.mediaType)
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrManifestInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestParseManifestForeign(t *testing.T) {
	data := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[{"mediaType":%q,"digest":%q,"size":5,"urls":["https://a"]},{"mediaType":%q,"digest":%q,"size":5}]}`,
		aDesc, mediaTypeDockerForeign, aDigest, mediaTypeDockerForeign, aDigest)
	m, err := parseManifest([]byte(data), mediaTypeDockerManifest)
	if err != nil || len(m.Refs) != 2 {
		t.Errorf("got %d references, %v: want the config and the layer without urls", len(m.Refs), err)
	}
}

func FuzzManifest(f *testing.F) {
	for _, mt := range []string{"", ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, mediaTypeDockerManifest, mediaTypeDockerList, mediaTypeArtifact} {
		f.Add([]byte(`{"schemaVersion":2,"config":`+aDesc+`,"layers":[`+aDesc+`],"subject":`+aDesc+`,"annotations":{"a":"b"}}`), mt)
		f.Add([]byte(`{"schemaVersion":2,"manifests":[`+aDesc+`],"mediaType":"`+mt+`"}`), mt)
	}
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		m, err := parseManifest(data, mediaType)
		if err != nil {
			if !errors.Is(err, ErrManifestInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		if !json.Valid(data) || m.MediaType == "" {
			t.Errorf("%q of type %q was let in", data, m.MediaType)
		}
		for _, d := range m.Refs {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("descriptor %+v was let in", d)
			}
		}
		if m.Subject != "" && m.Subject.Validate() != nil {
			t.Errorf("subject %q was let in", m.Subject)
		}
	})
}
