package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

// specification is what makes a container what it is: if it is equal, a container
// serves on.
type specification struct {
	Platform  string `json:",omitempty"`
	Container container.CreateRequest
	Files     []mountedFile `json:",omitempty"`
	Job       bool          `json:",omitempty"`
	// Restart are the versions of the services whose replacement replaces this one.
	Restart map[string]string `json:",omitempty"`
}

type mountedFile struct {
	Target   string
	UID, GID int
	Mode     os.FileMode
	Content  digest.Digest
}

// versions returns the version of each service of a stack: a hash of all that a
// container is made with. The number of replicas, the strategy, published ports,
// routes and names are not of it: they change without new containers.
func versions(s *Stack) (map[string]string, error) {
	order, err := ordered(s)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, svc := range order {
		spec := specification{Job: svc.Job, Platform: svc.Platform, Restart: map[string]string{}}
		if spec.Container, err = bare(svc); err != nil {
			return nil, err
		}
		for _, f := range svc.Files {
			spec.Files = append(spec.Files, mountedFile{f.Target, f.UID, f.GID, f.Mode, f.Content})
		}
		for _, need := range svc.Needs {
			if version, ok := found[need.Service]; ok && need.Restart {
				spec.Restart[need.Service] = version
			}
		}
		text, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		found[svc.Name] = hex.EncodeToString(sum[:8])
	}
	return found, nil
}

// bare returns a copy of what a service's containers are made with, without what
// belongs to the service: names in networks, and published ports.
func bare(svc *Service) (container.CreateRequest, error) {
	var req container.CreateRequest
	text, err := json.Marshal(svc.Container)
	if err == nil {
		err = json.Unmarshal(text, &req)
	}
	if err != nil {
		return req, err
	}
	if req.Config == nil {
		req.Config = &container.Config{}
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.Image == "" {
		req.Image = svc.Image
	}
	if req.NetworkingConfig != nil {
		for _, endpoint := range req.NetworkingConfig.EndpointsConfig {
			if endpoint != nil {
				endpoint.Aliases = nil
			}
		}
	}
	req.HostConfig.PortBindings = nil
	return req, nil
}
