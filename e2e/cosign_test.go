package e2e

import (
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestCosign signs an image in the registry and verifies the signature there,
// with a key of its own and without any service besides the registry.
func TestCosign(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{})
	dir := t.TempDir()
	source, desc := sampleImage(t)
	berthtest.NewCommand(t, "skopeo").Run("copy", "--dest-tls-verify=false", "oci:"+source.dir+":latest", "docker://"+s.Addr+"/cosign/image:v1")
	image := s.Addr + "/cosign/image@" + desc.Digest.String()

	cosign := berthtest.NewCommand(t, "cosign").Dir(dir).Env("COSIGN_PASSWORD=secret", "HOME="+dir, "DOCKER_CONFIG="+dir)
	cosign.Run("generate-key-pair")
	cosign.Run("signing-config", "create", "--out", "services.json")
	cosign.Run("trusted-root", "create", "--out", "root.json")
	verify := []string{"verify", "--allow-http-registry", "--key", "cosign.pub", "--insecure-ignore-tlog", "--trusted-root", "root.json", image}
	if _, _, err := cosign.Try(verify...); err == nil {
		t.Fatal("cosign verifies an image that nobody has signed")
	}
	cosign.Run("sign", "--yes", "--allow-http-registry", "--key", "cosign.key", "--signing-config", "services.json", image)
	if got := cosign.Run(verify...); !strings.Contains(got, desc.Digest.String()) {
		t.Errorf("cosign verifies something else: %s", got)
	}

	// What refers to the image can be found, and moved with it.
	copied := s.Addr + "/cosign/copy@" + desc.Digest.String()
	berthtest.NewCommand(t, "oras").Env("DOCKER_CONFIG="+dir).Run("copy", "-r", "--from-plain-http", "--to-plain-http", image, s.Addr+"/cosign/copy:v1")
	verify[len(verify)-1] = copied
	if got := cosign.Run(verify...); !strings.Contains(got, desc.Digest.String()) {
		t.Errorf("cosign verifies something else: %s", got)
	}
}
