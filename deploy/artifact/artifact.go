// Package artifact keeps stacks in registries: a Compose file as an OCI artifact, in
// the format of docker compose publish.
//
// It promises that what it pushes is read by docker compose -f oci://REF, that it
// reads what docker compose publish writes, and that the same bundle always is the
// same artifact. Everything that is fetched is verified by its digest, and is bounded:
// an artifact that is larger, or not one of Compose's, is refused before its content
// is asked for. The tag is moved last: a push that breaks off leaves it where it was.
//
// It does not make out what a Compose file says (deploy/stack does), and knows nothing
// of credentials: the registry is a target of oras-go that the caller has made.
package artifact

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-registry/berth/runner"
)

// The media types of docker compose publish.
const (
	// Type is the artifact type of a stack.
	Type = "application/vnd.docker.compose.project"

	typeCompose = "application/vnd.docker.compose.file+yaml"
	typeEnvFile = "application/vnd.docker.compose.envfile"
	// typeConfig is that of the configuration where a registry knows no artifact types.
	typeConfig = "application/vnd.docker.compose.config.empty.v1+json"
)

// The annotations of layers that docker compose publish sets.
const (
	annotationFile    = "com.docker.compose.file"
	annotationExtends = "com.docker.compose.extends"
	annotationEnvFile = "com.docker.compose.envfile"
)

// AnnotationRollout is the annotation of the manifest with the policy by which a fleet
// takes the stack, as JSON.
const AnnotationRollout = "dev.berth.rollout"

// The bounds of what is fetched and pushed.
const (
	maxManifest = 4 << 20
	maxContent  = 16 << 20 // of all layers together
	maxLayers   = 256
)

// composeFile is the name of the file that docker compose reads.
const composeFile = "compose.yaml"

// Bundle is what an artifact has in it.
type Bundle struct {
	// Compose is the Compose file. One of several documents is merged, the later ones
	// over those before.
	Compose []byte
	// Extends are files that its services extend, by the names that it has for them.
	Extends map[string][]byte
	// EnvFiles are files of env_file, by the names that Compose has for them.
	EnvFiles map[string][]byte
	// Annotations are those of the manifest.
	Annotations map[string]string
}

// Write writes the files of the bundle into a directory, which must be there, and
// returns the path of the Compose file.
func (b Bundle) Write(dir string) (string, error) {
	if err := b.check(); err != nil {
		return "", err
	}
	const private = 0o600
	for _, files := range []map[string][]byte{b.Extends, b.EnvFiles, {composeFile: b.Compose}} {
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), content, private); err != nil {
				return "", err
			}
		}
	}
	return filepath.Join(dir, composeFile), nil
}

// check makes sure that the files lie beside each other, within the bounds.
func (b Bundle) check() error {
	size := len(b.Compose)
	if size == 0 {
		return runner.Errorf(runner.ErrInvalid, "the artifact has no Compose file")
	}
	seen := []string{composeFile}
	for _, files := range []map[string][]byte{b.Extends, b.EnvFiles} {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := checkName(name); err != nil {
				return err
			}
			if slices.Contains(seen, name) {
				return runner.Errorf(runner.ErrInvalid, "the artifact has the file %q twice", name)
			}
			seen = append(seen, name)
			size += len(files[name])
		}
	}
	if len(seen) > maxLayers || size > maxContent {
		return runner.Errorf(runner.ErrInvalid, "the stack has %d files of %d bytes: more than the %d of %d bytes allowed", len(seen), size, maxLayers, maxContent)
	}
	return nil
}

// checkName refuses what is not the name of a file in one directory.
func checkName(name string) error {
	const most = 255 // NAME_MAX
	if name == "" || name == "." || name == ".." || len(name) > most || strings.ContainsAny(name, "/\\\x00") {
		return runner.Errorf(runner.ErrInvalid, "the artifact has %q where the name of a file should be", name)
	}
	return nil
}
