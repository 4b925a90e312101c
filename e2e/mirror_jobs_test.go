package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// login writes docker's file of logins for a registry, and returns its directory.
func login(t *testing.T, host, account, password string) string {
	t.Helper()
	dir := t.TempDir()
	text := base64.StdEncoding.EncodeToString([]byte(account + ":" + password))
	writeFile(t, dir, "config.json", fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, text))
	return dir
}

// TestMirrorJob copies images of a platform from an upstream by command, with their
// signatures, which hold here when the upstream is away.
func TestMirrorJob(t *testing.T) {
	t.Parallel()
	u := startBasicUpstream(t)
	job := "sync:\n- {name: releases, mirror: far, repos: [team/app], tags: [\"v*\"], exclude: [\"*-rc*\"], platforms: [linux/amd64], cron: \"0 0 29 2 *\"}\n"
	m := startMirror(t, u, job)
	dir := t.TempDir()
	docker := login(t, u.proxy.Addr, "puller", u.secrets[0])
	source, desc := sampleIndex(t)
	for _, tag := range []string{"v1", "v2-rc1", "edge"} {
		berthtest.NewCommand(t, "skopeo").Run("copy", "--all", "--dest-tls-verify=false", "--dest-creds", "puller:"+u.secrets[0], "oci:"+source.dir+":latest", "docker://"+u.proxy.Addr+"/team/app:"+tag)
	}
	cosign := berthtest.NewCommand(t, "cosign").Dir(dir).Env("COSIGN_PASSWORD=secret", "HOME="+dir, "DOCKER_CONFIG="+docker)
	cosign.Run("generate-key-pair")
	cosign.Run("signing-config", "create", "--out", "services.json")
	cosign.Run("trusted-root", "create", "--out", "root.json")
	cosign.Run("sign", "--yes", "--allow-http-registry", "--key", "cosign.key", "--signing-config", "services.json", u.proxy.Addr+"/team/app@"+desc.Digest.String())

	plan := m.Berth("mirror", "run", "releases", "--dry-run").Run()
	if !strings.Contains(plan, "far/team/app:v1") || strings.Contains(plan, "edge") || strings.Contains(plan, "rc1") {
		t.Errorf("the plan is %s", plan)
	}
	if n := m.sound(); n > 0 {
		t.Errorf("a plan was carried out: %d blobs and manifests are stored", n)
	}
	m.Berth("mirror", "run", "releases").Run()
	// The upstream does not list referrers, so that cosign has made a tag of them.
	if status := m.Berth("mirror", "status", "releases").Run(); !strings.Contains(status, "ok: 2 tags, 0 unchanged, 2 copied") {
		t.Errorf("status says %s", status)
	}
	u.proxy.Do(func(*http.Request) berthtest.Fault { return berthtest.Fault{Status: http.StatusServiceUnavailable} })
	verify := []string{"verify", "--allow-http-registry", "--key", "cosign.pub", "--insecure-ignore-tlog", "--trusted-root", "root.json", m.Addr + "/far/team/app@" + desc.Digest.String()}
	if got := cosign.Run(verify...); !strings.Contains(got, desc.Digest.String()) {
		t.Errorf("cosign verifies something else: %s", got)
	}
	back := t.TempDir()
	k := skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + m.Addr + "/far/team/app"}
	k.Run("copy", "--override-arch", "amd64", "--override-os", "linux", "--src-tls-verify=false", k.repo+":v1", "oci:"+back+":latest")
	if _, _, err := k.Try("copy", "--override-arch", "arm64", "--override-os", "linux", "--src-tls-verify=false", k.repo+":v1", "oci:"+t.TempDir()+":latest"); err == nil {
		t.Error("another platform was copied, too")
	}
	m.sound()
}

// TestMirrorJobKilled kills a server in the middle of a job: when it runs again, so does
// the job, which does the rest and does not fetch again what was there.
func TestMirrorJobKilled(t *testing.T) {
	t.Parallel()
	u := startTokenUpstream(t)
	const images = 6
	var all []mirrorImage
	for i := range images {
		all = append(all, u.push("team/app", fmt.Sprint("v", i), 200_000))
	}
	m := startMirror(t, u, "sync:\n- {name: all, mirror: far, repos: [team/app], tags: [\"*\"], jobs: 1, cron: \"0 0 29 2 *\"}\n")
	hold, reached := make(chan struct{}), make(chan struct{})
	var blobs atomic.Int64
	u.proxy.Do(func(r *http.Request) (f berthtest.Fault) {
		if isBlob(r) && r.Header.Get("Authorization") != "" && blobs.Add(1) == images {
			close(reached)
			f.Hold = hold
		}
		return f
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = m.Berth("mirror", "run", "all").Try() // its server is killed
	}()
	<-reached
	m.Kill()
	close(hold)
	<-done
	u.proxy.Do(nil)
	before := u.proxy.Bytes()
	m.Restart()
	waitFor(t, "end of the job", func() bool { return strings.Contains(m.Berth("mirror", "status", "all").Run(), "ok: 6 tags") })
	var total int64
	for _, img := range all {
		total += img.size
	}
	if got := u.proxy.Bytes() - before; got == 0 || got >= total {
		t.Errorf("after it was killed, the job fetched %d bytes of blobs of %d", got, total)
	}
	u.proxy.Do(func(*http.Request) berthtest.Fault { return berthtest.Fault{Status: http.StatusServiceUnavailable} })
	for _, img := range all {
		m.mustPull(img)
	}
	if n := m.sound(); n != 3*images {
		t.Errorf("%d blobs and manifests are stored, want %d", n, 3*images)
	}
}

// TestReplication pushes to a registry that pushes on to another one, which is away at
// first, while the registry itself is killed: all of it arrives.
func TestReplication(t *testing.T) {
	t.Parallel()
	target := berthtest.Start(t, berthtest.Options{})
	there := newWire(target.URL)
	proxy := berthtest.StartFaulty(t, target.URL, there.http, nil)
	s := berthtest.Start(t, berthtest.Options{Config: fmt.Sprintf("replication:\n- {name: paris, url: %q, repos: [\"team/**\"], prefix: backup}\n", proxy.URL)})
	w := newWire(s.URL)
	type pushed struct {
		repo, tag       string
		manifest, layer digest.Digest
	}
	var all []pushed
	push := func(repo, tag string) {
		t.Helper()
		manifest, layer, err := w.smallImage(repo, tag, uint64(len(all)+1), 50_000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pushed{repo, tag, manifest, layer})
	}
	arrived := func(p pushed) bool {
		a, err := there.pullManifest("backup/"+p.repo, p.tag)
		return err == nil && a.status == http.StatusOK && digest.FromBytes(a.body) == p.manifest
	}
	push("team/app", "v1")
	waitFor(t, "first image in the other registry", func() bool { return arrived(all[0]) })
	there.verify(t, "backup/team/app", all[0].manifest, all[0].layer)

	proxy.Do(func(*http.Request) berthtest.Fault { return berthtest.Fault{Status: http.StatusServiceUnavailable} })
	for i := range 5 {
		push("team/app", fmt.Sprint("w", i))
		push("other/app", fmt.Sprint("w", i)) // which does not match
	}
	s.Kill()
	s.Restart()
	if said := s.Berth("replication", "status").Run(); !strings.Contains(said, "paris") {
		t.Errorf("status says %s", said)
	}
	hold := make(chan struct{})
	var held atomic.Bool
	proxy.Do(func(r *http.Request) (f berthtest.Fault) { // the next image is half there when the server is killed
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && held.CompareAndSwap(false, true) {
			<-hold
			f.Status = http.StatusBadGateway
		}
		return f
	})
	waitFor(t, "manifest on its way", held.Load)
	s.Kill()
	close(hold)
	s.Restart()
	for _, p := range all {
		if strings.HasPrefix(p.repo, "team/") {
			waitFor(t, "image "+p.tag+" in the other registry", func() bool { return arrived(p) })
			there.verify(t, "backup/"+p.repo, p.manifest, p.layer)
		}
	}
	if a := must(there.do("GET", "/v2/backup/other/app/tags/list", nil))(t); a.status != http.StatusNotFound {
		t.Errorf("what does not match is in the other registry: %s", a)
	}
	if left, err := filepath.Glob(filepath.Join(s.Data, "mirror", "*")); err != nil || len(left) > 0 {
		t.Errorf("left is %q, %v", left, err)
	}
}
