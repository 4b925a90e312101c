package images

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"

	"github.com/berth-registry/berth/runner"
)

// Inspect returns all that there is to say about an image. It fails with
// runner.ErrNotFound if platform is given, as os[/arch[/variant]] or as JSON, and
// is not the image's.
func (s *Store) Inspect(_ context.Context, ref, platform string, manifests bool) (image.InspectResponse, error) {
	e, err := s.findFor(ref, platform)
	if err != nil {
		return image.InspectResponse{}, err
	}
	config := e.config.Config
	resp := image.InspectResponse{
		ID: e.id, RepoTags: []string{}, RepoDigests: []string{},
		Author: e.config.Author, Config: &config,
		Architecture: e.config.Architecture, Variant: e.config.Variant, Os: e.config.OS, OsVersion: e.config.OSVersion,
		Size:        e.size,
		GraphDriver: &storage.DriverData{Name: "overlay2", Data: map[string]string{}},
		RootFS:      image.RootFS{Type: e.config.RootFS.Type},
		Metadata:    image.Metadata{LastTagTime: e.rec.Tagged},
	}
	if e.config.Created != nil {
		resp.Created = e.config.Created.Format(time.RFC3339Nano)
	}
	if h := e.config.History; len(h) > 0 {
		resp.Comment = h[len(h)-1].Comment
	}
	if len(e.lower) > 0 {
		resp.GraphDriver.Data["UpperDir"] = e.lower[0]
	}
	if len(e.lower) > 1 {
		resp.GraphDriver.Data["LowerDir"] = strings.Join(e.lower[1:], ":")
	}
	for _, d := range e.config.RootFS.DiffIDs {
		resp.RootFS.Layers = append(resp.RootFS.Layers, d.String())
	}
	tags, digests := namesOf(e)
	for _, r := range tags {
		resp.RepoTags = append(resp.RepoTags, s.Familiar(r))
	}
	for _, r := range digests {
		resp.RepoDigests = append(resp.RepoDigests, s.Familiar(r))
	}
	if manifests {
		d := e.rec.Manifest
		resp.Descriptor = &d
		resp.Manifests = []image.ManifestSummary{s.manifestSummary(e)}
	}
	return resp, nil
}

// findFor is find, for an image of a platform if one is given.
func (s *Store) findFor(ref, platform string) (*entry, error) {
	e, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	want, err := parsePlatform(platform)
	if err != nil || want == nil {
		return e, err
	}
	if p := platformOf(e.config.Platform); !platforms.OnlyStrict(*want).Match(p) {
		return nil, runner.Errorf(runner.ErrNotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			ref, platforms.FormatAll(p), platforms.FormatAll(*want))
	}
	return e, nil
}

// manifestSummary describes the one manifest that the store has of an image.
func (s *Store) manifestSummary(e *entry) image.ManifestSummary {
	m := image.ManifestSummary{
		ID: e.rec.Manifest.Digest.String(), Descriptor: e.rec.Manifest,
		Available: true, Kind: image.ManifestKindImage,
		ImageData: &image.ImageProperties{Platform: platformOf(e.config.Platform), Containers: []string{}},
	}
	m.Descriptor.Platform = &m.ImageData.Platform
	m.Size.Content = e.rec.Manifest.Size + e.manifest.Config.Size
	for _, l := range e.manifest.Layers {
		m.Size.Content += l.Size
	}
	m.ImageData.Size.Unpacked = e.size
	m.Size.Total = m.Size.Content + e.size
	return m
}

// History returns the steps by which an image was made, the last first.
func (s *Store) History(_ context.Context, ref, platform string) ([]image.HistoryResponseItem, error) {
	e, err := s.findFor(ref, platform)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	sizes := make([]int64, len(e.rec.Layers))
	for i, key := range e.rec.Layers {
		sizes[i] = s.layers[key].Size
	}
	s.mu.RUnlock()
	history := []image.HistoryResponseItem{}
	layer := 0
	for _, h := range e.config.History {
		item := image.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && layer < len(sizes) {
			item.Size = sizes[layer]
			layer++
		}
		history = append(history, item)
	}
	slices.Reverse(history)
	if len(history) > 0 {
		history[0].ID = e.id
		tags, _ := namesOf(e)
		for _, r := range tags {
			history[0].Tags = append(history[0].Tags, s.Familiar(r))
		}
	}
	return history, nil
}
