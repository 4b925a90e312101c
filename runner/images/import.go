package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// Import makes an image of one layer out of an archive of files, compressed or
// not, and returns its ID.
func (s *Store) Import(ctx context.Context, req runner.ImportRequest, r io.Reader, p runner.Progress) (string, error) {
	var name reference.Named
	var err error
	if req.Repo != "" {
		if name, err = s.newName(req.Repo, req.Tag); err != nil {
			return "", err
		}
	}
	platform, err := parsePlatform(req.Platform)
	if err != nil {
		return "", err
	}
	if platform == nil {
		host := platforms.DefaultSpec()
		platform = &ocispec.Platform{OS: host.OS, Architecture: host.Architecture}
	}
	var config container.Config
	if err := ApplyChanges(&config, req.Changes); err != nil {
		return "", err
	}
	message := req.Message
	if message == "" {
		message = "Imported from -"
	}
	now := time.Now().UTC()
	img := &newImage{config: dockerspec.DockerOCIImage{
		Image:  ocispec.Image{Created: &now, Platform: *platform, History: []ocispec.History{{Created: &now, Comment: message}}},
		Config: imageConfig(&config),
	}}
	p.Status("", "Importing")
	id, err := s.addLayer(ctx, img, name, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil })
	if err != nil {
		return "", err
	}
	s.imageEvent(events.ActionImport, id, id)
	return id, nil
}

// addLayer puts a layer on top of an image that is being made, the layers of
// which the store has, and makes that one of the store.
func (s *Store) addLayer(ctx context.Context, img *newImage, name reference.Named, open func(context.Context) (io.ReadCloser, error)) (id string, err error) {
	unpin := func() {}
	defer func() { s.conclude(unpin, err) }()
	u, err := s.ingest(ctx, layerInput{open: open, pack: true}, nil)
	if err != nil {
		return "", err
	}
	u.owners = 1
	img.layers = append(make([]*unpacked, len(img.manifest.Layers)), u)
	defer s.releaseAll(img)
	if u.tree.entries == 0 && len(img.manifest.Layers) > 0 {
		// Nothing has changed: the history says so, and there is no layer.
		img.config.History[len(img.config.History)-1].EmptyLayer = true
		img.layers = img.layers[:len(img.layers)-1]
		defer s.release(u)
	} else {
		img.config.RootFS.DiffIDs = append(slices.Clip(img.config.RootFS.DiffIDs), u.diffID)
		img.manifest.Layers = append(slices.Clip(img.manifest.Layers), img.layerDescriptor(u))
	}
	img.config.RootFS.Type = "layers"
	if img.configRaw, err = json.Marshal(img.config); err != nil {
		return "", err
	}
	if err := firstError(img.parse(), img.makeManifest()); err != nil {
		return "", err
	}
	unpin = s.pin(img.pins()...)
	if name != nil {
		img.names = []reference.Named{name}
	}
	_, err = s.add(ctx, img)
	return img.id(), err
}

// layerDescriptor is a new layer's, in the form of the image's manifest.
func (img *newImage) layerDescriptor(u *unpacked) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: layerType(u.packing), Digest: u.blob.Digest, Size: u.blob.Size}
	if img.manifest.MediaType == ocispec.MediaTypeImageManifest {
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
		if u.packing == packedZstd {
			desc.MediaType = ocispec.MediaTypeImageLayerZstd
		}
	}
	return desc
}

// imageConfig is what an image keeps of a container's configuration.
func imageConfig(c *container.Config) dockerspec.DockerOCIImageConfig {
	out := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal, ArgsEscaped: c.ArgsEscaped, //nolint:staticcheck // what the base has
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{Healthcheck: c.Healthcheck, OnBuild: c.OnBuild, Shell: c.Shell},
	}
	if len(c.ExposedPorts) > 0 {
		out.ExposedPorts = map[string]struct{}{}
		for p := range c.ExposedPorts {
			out.ExposedPorts[p.String()] = struct{}{}
		}
	}
	return out
}

// Commit says what an image is made of a container from.
type Commit struct {
	Base        string            // ID of the container's image; empty: there is none
	ContainerID string            // for errors
	Upper       string            // the directory of its writable layer, as overlayfs has it
	Lower       []string          // those below it, the topmost first
	Skip        []string          // mount points: left out if they are empty
	Config      *container.Config // of the image, with all changes
	Repo, Tag   string
	Author      string
	Comment     string
	// Command is the container's own, for the history; nil: that of Config.
	Command []string
}

// Commit makes an image of another and what a container has changed in its files,
// and returns the ID. Files that change meanwhile are taken as they are when read.
func (s *Store) Commit(ctx context.Context, c Commit) (string, error) {
	var name reference.Named
	if c.Repo != "" {
		var err error
		if name, err = s.newName(c.Repo, c.Tag); err != nil {
			return "", err
		}
	}
	img := &newImage{config: dockerspec.DockerOCIImage{Image: ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}}}
	if c.Base != "" {
		unpin, err := s.startFrom(img, c.Base)
		if err != nil {
			return "", err
		}
		defer unpin()
	}
	now := time.Now().UTC()
	command := c.Command
	if command == nil {
		command = c.Config.Cmd
	}
	img.config.Config = imageConfig(c.Config)
	img.config.Created, img.config.Author = &now, c.Author
	img.config.History = append(slices.Clip(img.config.History), ocispec.History{
		Created: &now, Author: c.Author, Comment: c.Comment, CreatedBy: joinCommand(command),
	})
	id, err := s.addLayer(ctx, img, name, func(ctx context.Context) (io.ReadCloser, error) { return layerOf(ctx, c), nil })
	if err != nil {
		return "", fmt.Errorf("commit of container %s: %w", shortID(c.ContainerID), err)
	}
	return id, nil
}

// startFrom makes img what an image of the store is, though it be removed, and
// pins that.
func (s *Store) startFrom(img *newImage, id string) (unpin func(), err error) {
	s.mu.RLock()
	base := s.images[id]
	s.mu.RUnlock()
	if base == nil || base.broken != nil {
		return nil, noSuchImage(id)
	}
	img.config, img.manifest = base.config, base.manifest
	img.manifest.Annotations, img.manifest.Subject = nil, nil
	var pins []string
	for i, l := range base.manifest.Layers {
		pins = append(pins, l.Digest.String(), layerPin(base.rec.Layers[i]))
	}
	return s.pin(append(pins, digest.Digest(id).String())...), nil
}
