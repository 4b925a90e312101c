package e2e

import (
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestORAS pushes artifacts: files, files attached to them, and what was
// attached to those.
func TestORAS(t *testing.T) {
	t.Parallel()
	testORAS(t, berthtest.Start(t, berthtest.Options{}).Addr)
}

// testORAS drives oras against the registry at an address.
func testORAS(t *testing.T, addr string) {
	t.Helper()
	repo := addr + "/oras/artifact"
	files := t.TempDir()
	writeFile(t, files, "model.bin", randomBytes(1, 3<<20))
	writeFile(t, files, "sub/readme.txt", []byte("read me\n"))
	writeFile(t, files, "sbom.json", []byte(`{"sbom":true}`))
	oras := berthtest.NewCommand(t, "oras").Dir(files).Env("DOCKER_CONFIG=" + t.TempDir())

	type pushed struct{ Digest, Reference string }
	artifact := decode[pushed](t, oras.Run("push", "--plain-http", "--format", "json", "--artifact-type", "application/vnd.test.model",
		repo+":v1,latest", "model.bin:application/vnd.test.bin", "sub/readme.txt:text/plain"))
	for _, ref := range []string{":v1", "@" + artifact.Digest} {
		back := t.TempDir()
		oras.Run("pull", "--plain-http", "-o", back, repo+ref)
		sameFile(t, filepath.Join(files, "model.bin"), filepath.Join(back, "model.bin"))
		sameFile(t, filepath.Join(files, "sub", "readme.txt"), filepath.Join(back, "sub", "readme.txt"))
	}

	sbom := decode[pushed](t, oras.Run("attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api", "--format", "json",
		"--artifact-type", "application/vnd.test.sbom", repo+":v1", "sbom.json:application/json"))
	oras.Run("attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api",
		"--artifact-type", "application/vnd.test.note", "--annotation", "note=yes", repo+"@"+sbom.Digest)
	type referrer struct {
		ocispec.Descriptor
		Referrers []ocispec.Descriptor
	}
	found := decode[struct{ Referrers []referrer }](t, oras.Run("discover", "--plain-http", "--format", "json",
		"--distribution-spec", "v1.1-referrers-api", repo+":v1"))
	if len(found.Referrers) != 1 || found.Referrers[0].Digest.String() != sbom.Digest ||
		found.Referrers[0].ArtifactType != "application/vnd.test.sbom" || len(found.Referrers[0].Referrers) != 1 {
		t.Fatalf("discover found %+v", found.Referrers)
	}

	// The artifact and all that refers to it, to a layout and back into another
	// repository.
	first, second := filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "layout")
	oras.Run("copy", "-r", "--from-plain-http", "--to-oci-layout", repo+":v1", first+":v1")
	oras.Run("copy", "-r", "--from-oci-layout", "--to-plain-http", first+":v1", addr+"/oras/copy:v1")
	oras.Run("copy", "-r", "--from-plain-http", "--to-oci-layout", addr+"/oras/copy:v1", second+":v1")
	sameBlobs(t, first, second)

	oras.Run("manifest", "delete", "--plain-http", "--force", repo+"@"+sbom.Digest)
	back := t.TempDir()
	if _, _, err := oras.Try("pull", "--plain-http", "-o", back, repo+"@"+sbom.Digest); err == nil {
		t.Error("what was deleted can be pulled")
	}
	if _, err := os.Stat(filepath.Join(back, "sbom.json")); err == nil {
		t.Error("what was deleted came back")
	}
}
