package e2e

import (
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestMirrorHeals damages what a mirror has, on its disk: what shows at once is fetched
// again by the next pull, and the rest by the check of all that is stored.
func TestMirrorHeals(t *testing.T) {
	t.Parallel()
	u := startBasicUpstream(t)
	m := startMirror(t, u, "")
	img := u.push("team/app", "v1", 200_000, 1000)
	m.mustPull(img)
	m.sound() // a client has it before the disk
	all := append([]digest.Digest{img.manifest}, img.blobs...)
	heal := func(what string) {
		t.Helper()
		waitFor(t, "image that is whole again after "+what, func() bool {
			for _, d := range all {
				if data, err := os.ReadFile(m.stored(d)); err != nil || digest.FromBytes(data) != d {
					return false
				}
			}
			return true
		})
		m.mustPull(img)
		m.sound()
	}
	for what, harm := range map[string]func(path string) error{
		"short": func(path string) error { return os.Truncate(path, 10) },
		"gone":  os.Remove,
	} {
		for _, d := range img.blobs {
			if err := harm(m.stored(d)); err != nil {
				t.Fatal(err)
			}
		}
		m.mustPull(img)
		heal(what)
	}
	for _, d := range all {
		data, err := os.ReadFile(m.stored(d))
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(m.stored(d), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	scrubbed{t, m.Server}.check()
	heal("bits that are others")
	if st := (scrubbed{t, m.Server}).check(); st.Count != 0 {
		t.Errorf("healed, damaged are %+v", st.Damaged)
	}
}
