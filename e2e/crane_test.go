package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestCrane(t *testing.T) {
	t.Parallel()
	testCrane(t, berthtest.Start(t, berthtest.Options{}).Addr)
}

// testCrane drives crane against the registry at an address.
func testCrane(t *testing.T, addr string) {
	t.Helper()
	crane := berthtest.NewCommand(t, "crane", "--insecure")
	repo := addr + "/crane/image"
	source, desc := sampleIndex(t)

	source.write(ocispec.ImageIndexFile, source.read(desc.Digest)) // crane pushes the layout's own index
	crane.Run("push", "--index", source.dir, repo+":v1")
	if got := strings.TrimSpace(crane.Run("digest", repo+":v1")); got != desc.Digest.String() {
		t.Fatalf("digest %s: want %s", got, desc.Digest)
	}
	crane.Run("validate", "--remote", repo+":v1")

	for _, ref := range []string{":v1", "@" + desc.Digest.String()} {
		back := filepath.Join(t.TempDir(), "layout")
		crane.Run("pull", "--format", "oci", repo+ref, back)
		sameBlobs(t, source.dir, back)
	}

	// A copy to another repository mounts its blobs.
	other := addr + "/crane/other"
	crane.Run("copy", repo+":v1", other+":copy")
	crane.Run("tag", other+":copy", "again")
	if got, want := strings.Fields(crane.Run("ls", other)), []string{"again", "copy"}; !slices.Equal(got, want) {
		t.Errorf("tags %q: want %q", got, want)
	}
	if got, want := strings.Fields(crane.Run("catalog", addr)), []string{"crane/image", "crane/other"}; !slices.Equal(got, want) {
		t.Errorf("catalog %q: want %q", got, want)
	}
	crane.Run("delete", other+":copy")
	if got, want := strings.Fields(crane.Run("ls", other)), []string{"again"}; !slices.Equal(got, want) {
		t.Errorf("tags after a delete %q: want %q", got, want)
	}
	crane.Run("validate", "--remote", other+":again")
}
