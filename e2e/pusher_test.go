package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pusher is a client that pushes, tags and deletes at random, and writes down in
// a model what it is about to do and what was acknowledged. Its tags and
// manifests are its own, so that it alone knows where they are.
type pusher struct {
	name  string
	wire  *wire
	model *model
	rand  *rand.Rand

	images []pushedImage // that can be deleted or put into an index
	tagged []pushedTag
}

type pushedImage struct {
	repo string
	desc ocispec.Descriptor
}

type pushedTag struct{ repo, tag string }

// run does one thing after the other until one fails.
func (p *pusher) run() error {
	for {
		if err := p.step(); err != nil {
			return err
		}
	}
}

func (p *pusher) step() error {
	repo := fmt.Sprintf("kill/repo-%d", p.rand.IntN(3))
	switch n := p.rand.IntN(20); {
	case n < 10:
		return p.pushImage(repo)
	case n < 13:
		return p.pushIndex()
	case n < 15:
		return p.leaveUpload(repo)
	case n < 17:
		return p.mount(repo)
	case n < 19:
		return p.deleteTag()
	default:
		return p.deleteManifest()
	}
}

// data is some bytes: mostly few, at times many.
func (p *pusher) data() []byte {
	n := 2 + p.rand.IntN(16<<10)
	if p.rand.IntN(50) == 0 {
		n = p.rand.IntN(2 << 20)
	}
	return randomBytes(p.rand.Uint64(), n+2)
}

func (p *pusher) pushImage(repo string) error {
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","id":"%s-%x"}`, p.name, p.rand.Uint64())
	var layers [][]byte
	for range p.rand.IntN(4) {
		layers = append(layers, p.data())
	}
	for _, blob := range append(layers, config) {
		if err := p.pushBlob(repo, blob); err != nil {
			return err
		}
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptorOf(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, descriptorOf(ocispec.MediaTypeImageLayer, l))
	}
	if image, ok := p.pickImage(); ok && image.repo == repo && p.rand.IntN(4) == 0 {
		m.Subject = &image.desc
	}
	return p.pushManifest(repo, mustJSON(m))
}

// pushBlob pushes a blob in one of the ways of the specification.
func (p *pusher) pushBlob(repo string, data []byte) error {
	d := digest.FromBytes(data)
	p.model.blob(repo, d, false)
	err := p.sendBlob(repo, data)
	if err == nil {
		p.model.blob(repo, d, true)
	}
	return err
}

func (p *pusher) sendBlob(repo string, data []byte) error {
	way := p.rand.IntN(3)
	if way == 0 {
		_, err := p.wire.must(http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(data).String(), bytes.NewReader(data))
		return err
	}
	location, err := p.wire.startUpload(repo)
	if err != nil {
		return err
	}
	at := 0
	for way == 2 && len(data)-at > 4 {
		next := at + 2 + p.rand.IntN(len(data)-at-3)
		if location, err = p.wire.writeUpload(location, data, at, next); err != nil {
			return err
		}
		at = next
	}
	return p.wire.commitUpload(location, data, at)
}

// pushManifest pushes a manifest by a tag, by its digest, or by its digest with
// tags.
func (p *pusher) pushManifest(repo string, data []byte) error {
	var tags []string
	for range p.rand.IntN(3) {
		tags = append(tags, fmt.Sprintf("%s-%d", p.name, p.rand.IntN(8)))
	}
	d := digest.FromBytes(data)
	path := "/v2/" + repo + "/manifests/" + d.String()
	switch {
	case len(tags) == 1 && p.rand.IntN(2) == 0:
		path = "/v2/" + repo + "/manifests/" + tags[0]
	case len(tags) > 0:
		path += "?tag=" + tags[0] + "&tag=" + tags[len(tags)-1]
	}
	p.model.manifest(repo, data, tags, false)
	if _, err := p.wire.must(http.StatusCreated, "PUT", path, bytes.NewReader(data), "Content-Type", mediaTypeOf(data)); err != nil {
		return err
	}
	p.model.manifest(repo, data, tags, true)
	p.images = append(p.images, pushedImage{repo, descriptorOf(mediaTypeOf(data), data)})
	for _, tag := range tags {
		p.tagged = append(p.tagged, pushedTag{repo, tag})
	}
	return nil
}

func (p *pusher) pickImage() (pushedImage, bool) {
	if len(p.images) == 0 {
		return pushedImage{}, false
	}
	return p.images[p.rand.IntN(len(p.images))], true
}

// pushIndex pushes an index of images, which from then on cannot be deleted.
func (p *pusher) pushIndex() error {
	first, ok := p.pickImage()
	if !ok {
		return nil
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{"id": fmt.Sprintf("%s-%x", p.name, p.rand.Uint64())},
	}
	var rest []pushedImage
	for _, image := range p.images {
		if image.repo == first.repo && len(index.Manifests) < 3 {
			index.Manifests = append(index.Manifests, image.desc)
		} else {
			rest = append(rest, image)
		}
	}
	p.images = rest
	return p.pushManifest(first.repo, mustJSON(index))
}

// leaveUpload begins an upload and leaves it open.
func (p *pusher) leaveUpload(repo string) (err error) {
	s := &session{repo: repo, data: p.data()}
	if s.location, err = p.wire.startUpload(repo); err != nil {
		return err
	}
	p.model.addSession(s)
	for range p.rand.IntN(3) {
		if len(s.data)-s.acked < 4 {
			break
		}
		s.sent = s.acked + 2 + p.rand.IntN(len(s.data)-s.acked-3)
		if s.location, err = p.wire.writeUpload(s.location, s.data, s.acked, s.sent); err != nil {
			return err
		}
		s.acked = s.sent
	}
	return nil
}

// mount makes the blobs of an image readable in another repository.
func (p *pusher) mount(repo string) error {
	data := p.data()
	from := repo + "/source"
	if err := p.pushBlob(from, data); err != nil {
		return err
	}
	d := digest.FromBytes(data)
	p.model.blob(repo, d, false)
	if _, err := p.wire.must(http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String()+"&from="+from, nil); err != nil {
		return err
	}
	p.model.blob(repo, d, true)
	return nil
}

func (p *pusher) deleteTag() error {
	if len(p.tagged) == 0 {
		return nil
	}
	at := p.tagged[p.rand.IntN(len(p.tagged))]
	p.tagged = nil // none of them is deleted twice
	p.model.untag(at.repo, at.tag, false)
	// The tag may have gone with its manifest.
	a, err := p.wire.do("DELETE", "/v2/"+at.repo+"/manifests/"+at.tag, nil)
	if err == nil && a.status != http.StatusAccepted && a.status != http.StatusNotFound {
		err = &unexpected{"DELETE", at.tag, a, http.StatusAccepted}
	}
	if err == nil {
		p.model.untag(at.repo, at.tag, true)
	}
	return err
}

func (p *pusher) deleteManifest() error {
	image, ok := p.pickImage()
	if !ok {
		return nil
	}
	p.images = nil // none of them is used after it may be gone
	p.model.drop(image.repo, image.desc.Digest, false)
	if _, err := p.wire.must(http.StatusAccepted, "DELETE", "/v2/"+image.repo+"/manifests/"+image.desc.Digest.String(), nil); err != nil {
		return err
	}
	p.model.drop(image.repo, image.desc.Digest, true)
	return nil
}
