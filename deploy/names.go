package deploy

import (
	"fmt"
	"strings"
)

// Labels of containers, networks and volumes. Those of Compose are there for the
// tools that look for them.
const (
	labelStack    = "dev.berth.stack"
	labelService  = "dev.berth.service"
	labelRevision = "dev.berth.revision" // that made the container
	labelVersion  = "dev.berth.version"  // of the service, see versions
	labelNumber   = "com.docker.compose.container-number"
	labelConfig   = "dev.berth.config" // of a network or volume, see configOf

	labelProject        = "com.docker.compose.project"
	labelComposeService = "com.docker.compose.service"
	labelComposeNetwork = "com.docker.compose.network"
	labelComposeVolume  = "com.docker.compose.volume"
)

// Owner is the name by which the Traffic and the Edge know a stack.
func Owner(stack string) string { return "stack/" + stack }

func containerName(stack, service string, revision, number int) string {
	return fmt.Sprintf("%s-%s-r%d-%d", stack, service, revision, number)
}

// repository returns an image's reference without tag and digest.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref
}

// registryOf returns the host of an image's registry.
func registryOf(ref string) string {
	host, _, ok := strings.Cut(ref, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return "docker.io"
}
