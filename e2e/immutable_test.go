package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestImmutableTags pushes a tag that can be created only, and then tries every way
// to move or remove it. Each is refused, and the audit tells of it, though there is
// no policy.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "audit.log")
	s := berthtest.Start(t, berthtest.Options{Config: fmt.Sprintf("immutable: [\"**:v*\"]\naudit: {output: %q}\n", log)})
	w := newWire(s.URL)
	manifest := func(n int) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"n":"%d"}}`, n)
	}
	push := func(ref string, n, status int) {
		t.Helper()
		a, err := w.pushManifest("team/web", ref, manifest(n))
		if err != nil || a.status != status {
			t.Errorf("push %d as %s: %s, %v; want %d", n, ref, a, err, status)
		}
	}
	first, second := digest.FromBytes(manifest(1)).String(), digest.FromBytes(manifest(2)).String()
	push("v1", 1, http.StatusCreated)
	push("v1", 1, http.StatusCreated) // the same again
	push("latest", 1, http.StatusCreated)
	push("latest", 2, http.StatusCreated)

	push("v1", 2, http.StatusForbidden)
	push(second+"?tag=v2&tag=v1", 2, http.StatusForbidden)
	for _, ref := range []string{"v1", first} {
		if a, err := w.do(http.MethodDelete, "/v2/team/web/manifests/"+ref, nil); err != nil || a.status != http.StatusForbidden || a.clear() != nil {
			t.Errorf("delete %s: %s, %v", ref, a, err)
		}
	}
	if a, err := w.pullManifest("team/web", "v1"); err != nil || a.header.Get("Docker-Content-Digest") != first {
		t.Errorf("v1 is %s, %v", a.header.Get("Docker-Content-Digest"), err)
	}
	if a, err := w.pullManifest("team/web", "v2"); err != nil || a.status != http.StatusNotFound {
		t.Errorf("v2, pushed with v1: %s, %v", a, err)
	}

	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for action, want := range map[string]int{"push": 2, "delete": 2} {
		n := 0
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, `"event":"access","outcome":"denied"`) && strings.Contains(line, `"repository":"team/web"`) &&
				strings.Contains(line, `"action":"`+action+`"`) && strings.Contains(line, "tag v1 of team/web is immutable") {
				n++
			}
		}
		if n != want {
			t.Errorf("the audit tells of %d refusals to %s, want %d:\n%s", n, action, want, data)
		}
	}
}
