package api

import (
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
)

// listedImage is an image with a field that left the API with 1.44.
type listedImage struct {
	*image.Summary

	VirtualSize *int64 `json:",omitempty"`
}

// imageList is the answer to a request for the list of images.
func (v version) imageList(list []image.Summary) []listedImage {
	out := make([]listedImage, len(list))
	for i := range list {
		s := &list[i]
		out[i].Summary = s
		s.RepoTags, s.RepoDigests = notNil(s.RepoTags), notNil(s.RepoDigests)
		if v < 43 && len(s.RepoTags) == 0 && len(s.RepoDigests) == 0 {
			s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if v < 44 {
			out[i].VirtualSize = &s.Size
		}
		if v < 48 {
			s.Descriptor = nil
		}
		if v < 51 {
			s.Containers = -1
		}
	}
	return out
}

// inspectedImage is an image with fields that left the API since.
type inspectedImage struct {
	*image.InspectResponse

	// Until 1.52. Parent and DockerVersion are what the old builder wrote.
	Parent        string
	Comment       string
	DockerVersion string
	Author        string
	Config        *imageConfig
	GraphDriver   *storage.DriverData
	Created       string `json:",omitempty"`

	VirtualSize     *int64            `json:",omitempty"` // until 1.44
	Container       *string           `json:",omitempty"` // until 1.45
	ContainerConfig *container.Config `json:",omitempty"` // likewise
}

// imageConfig has the fields that became optional with 1.52, whether they are set
// or not.
type imageConfig struct {
	*dockerspec.DockerOCIImageConfig
	*neverSet

	User       string
	Env        []string
	Cmd        []string
	Volumes    map[string]struct{}
	WorkingDir string
	Entrypoint []string
	OnBuild    []string
	Labels     map[string]string
}

// neverSet are the fields of a container's configuration that an image's had, and
// that left it with 1.50.
type neverSet struct {
	Hostname, Domainname                    string
	AttachStdin, AttachStdout, AttachStderr bool
	Tty, OpenStdin, StdinOnce               bool
	Image                                   string
}

// image is the answer to a request to inspect an image.
func (v version) image(i *image.InspectResponse) any {
	i.RepoTags, i.RepoDigests = notNil(i.RepoTags), notNil(i.RepoDigests)
	if v < 53 {
		i.Identity = nil
	}
	if v >= 52 {
		return i
	}
	if v < 48 {
		i.Descriptor = nil
	}
	out := &inspectedImage{InspectResponse: i, Comment: i.Comment, Author: i.Author, GraphDriver: i.GraphDriver, Created: i.Created}
	if out.GraphDriver == nil {
		out.GraphDriver = &storage.DriverData{Name: "overlayfs"}
	}
	if c := i.Config; c != nil {
		out.Config = &imageConfig{
			DockerOCIImageConfig: c, User: c.User, Env: c.Env, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Entrypoint: c.Entrypoint, OnBuild: c.OnBuild, Labels: c.Labels,
		}
		if v < 50 {
			out.Config.neverSet = &neverSet{}
		}
	}
	if v < 44 {
		out.VirtualSize = &i.Size
		if out.Created == "" {
			out.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	if v < 45 {
		out.Container, out.ContainerConfig = new(string), &container.Config{}
	}
	return out
}
