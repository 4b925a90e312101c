package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// scrubbed is a server that is checked.
type scrubbed struct {
	*testing.T
	*berthtest.Server
}

// check has all checked, and returns how it is then.
func (s scrubbed) check() admin.ScrubStatus {
	s.Helper()
	began := time.Now()
	s.Berth("scrub", "start").Run()
	return s.checked(began)
}

// checked waits for a check that began after a time.
func (s scrubbed) checked(after time.Time) (st admin.ScrubStatus) {
	s.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		st = decode[admin.ScrubStatus](s.T, s.Berth("scrub", "status", "--json").Run())
		if st.Last != nil && st.Last.Finished.After(after) {
			return st
		}
	}
	s.Fatalf("not checked within a minute: %+v", st)
	return st
}

func (s scrubbed) blob(d digest.Digest) string {
	return filepath.Join(s.Data, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

// TestScrubHeals damages an image on the disk of a server: the check finds it, clients
// do not get it, and a push with skopeo as anybody does it heals it, also after a
// restart and a kill.
func TestScrubHeals(t *testing.T) {
	t.Parallel()
	s := scrubbed{t, berthtest.Start(t, berthtest.Options{})}
	k := skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + s.Addr + "/team/app"}
	source, desc := sampleIndex(t)
	push := func() { k.push("oci:"+source.dir+":latest", ":v1") }
	push()
	if st := s.check(); st.Count != 0 || st.Last.Blobs == 0 || st.Last.Bytes != st.Bytes {
		t.Fatalf("what is whole is %+v", st)
	}
	stored, err := filepath.Glob(filepath.Join(source.dir, "blobs/sha256/*"))
	if err != nil || len(stored) < 5 {
		t.Fatalf("the image is %q, %v", stored, err)
	}
	for round, harm := range map[string]func(path string, data []byte) error{
		"bit": func(path string, data []byte) error {
			data[len(data)/2] ^= 1
			return os.WriteFile(path, data, 0o600)
		},
		"short": func(path string, data []byte) error { return os.Truncate(path, int64(len(data)-1)) },
		"gone":  func(path string, _ []byte) error { return os.Remove(path) },
	} {
		for _, name := range stored { // all of it: manifests, configs and layers
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := harm(s.blob(digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name))), data); err != nil {
				t.Fatal(err)
			}
		}
		st := s.check()
		if int(st.Count) != len(stored) || st.Damaged[0].Repos[0] != "team/app" {
			t.Fatalf("%s: %d are damaged of %d: %+v", round, st.Count, len(stored), st)
		}
		if text := s.Berth("scrub", "status").Run(); !strings.Contains(text, desc.Digest.String()) || !strings.Contains(text, "team/app") {
			t.Errorf("%s: status says %s", round, text)
		}
		if _, said, err := k.Try("copy", "--all", "--src-tls-verify=false", k.repo+":v1", "oci:"+t.TempDir()+":latest"); err == nil || !strings.Contains(said, "manifest unknown") {
			t.Errorf("%s: a pull of what is damaged: %v, %s", round, err, said)
		}
		if round == "short" {
			s.Kill()
			s.Restart()
		}
		push()
		back := t.TempDir()
		k.pull(":v1", "oci:"+back+":latest")
		sameBlobs(t, source.dir, back)
		if st := s.check(); st.Count != 0 {
			t.Errorf("%s: healed, damaged are %+v", round, st.Damaged)
		}
	}
}

// TestScrubOffline asks for a check where no server runs: it begins with the next one,
// which finds what happened meanwhile.
func TestScrubOffline(t *testing.T) {
	t.Parallel()
	s := scrubbed{t, berthtest.Start(t, berthtest.Options{})}
	k := skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + s.Addr + "/team/app"}
	source, desc := sampleImage(t)
	k.push("oci:"+source.dir+":latest", ":v1")
	s.check()
	s.Stop()
	if err := os.Truncate(s.blob(desc.Digest), 10); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if text := s.Berth("scrub", "start").Run(); !strings.Contains(text, "when a server runs") {
		t.Errorf("start says %s", text)
	}
	if st := decode[admin.ScrubStatus](t, s.Berth("scrub", "status", "--json").Run()); !st.Wanted || st.Running {
		t.Errorf("status says %+v", st)
	}
	s.Restart()
	if st := s.checked(began); st.Count != 1 || st.Damaged[0].Digest != desc.Digest.String() || st.Damaged[0].Damage != "size" || !st.Damaged[0].Quarantined {
		t.Errorf("found %+v", st)
	}
}
