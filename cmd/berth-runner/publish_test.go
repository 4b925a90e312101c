package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy/artifact"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
)

// pushImage pushes an image of nothing but its configuration, and returns its digest.
func pushImage(t *testing.T, s *berthtest.Server, repo, tag string) digest.Digest {
	t.Helper()
	send := func(method, path, contentType string, body []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	config := []byte(`{"architecture":"amd64","os":"linux","author":"` + repo + `","rootfs":{"type":"layers","diff_ids":[]}}`)
	send("POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(config).String(), "application/octet-stream", config)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, digest.FromBytes(config), len(config))
	send("PUT", "/v2/"+repo+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", manifest)
	return digest.FromBytes(manifest)
}

// publishes runs the command, and returns what it says.
func publishes(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := newPublishCmd()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

const publishedStack = `name: shop
services:
  web:
    image: %[1]s/web:1
    ports: ["8080:80"]
    environment: {PRICE: "5$$", FROM: "${HOME}"}
    configs: [page]
    depends_on: [db]
  db: {image: "%[1]s/db"}
configs:
  page: {file: ./page.txt}
x-berth:
  rollout: {parallel: 2, max_failures: 1}
`

// TestPublish stores a stack, and loads it as a node does that follows it.
func TestPublish(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	s := berthtest.Start(t, berthtest.Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "compose.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, fmt.Sprintf(publishedStack, s.Addr))
	write(filepath.Join(dir, "page.txt"), "hello $1\n")
	web := pushImage(t, s, "web", "1")
	ref := s.Addr + "/stacks/shop:prod"

	_, _, err := publishes(t, "-f", file, ref)
	if err == nil || !strings.Contains(err.Error(), "service db: image "+s.Addr+"/db cannot be pinned") || strings.Contains(err.Error(), "service web") {
		t.Errorf("an image is missing: %v", err)
	}
	db := pushImage(t, s, "db", "latest")
	says := func(args ...string) published {
		t.Helper()
		out, _, err := publishes(t, append([]string{"--json", "-f", file, ref}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		var p published
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		return p
	}
	source := func() *followedStack {
		t.Helper()
		c, err := remote.New(remote.Options{CertsDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		f, err := newFollowedStack(c, runnerconfig.Default(), &runnerconfig.Follow{Stack: ref, Name: "here"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	dry := says("--dry-run")
	if _, err := source().Head(t.Context(), ""); dry.Published || !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("a trial has published: %+v, %v", dry, err)
	}
	done := says()
	if !done.Published || done.Digest != dry.Digest || done.Reference != ref+"@"+done.Digest.String() || done.Images["web"] != s.Addr+"/web:1@"+web.String() {
		t.Errorf("published %+v, after %+v", done, dry)
	}
	if out, _, err := publishes(t, "-f", file, ref); err != nil || !strings.HasSuffix(out, "published "+done.Reference+"\n") {
		t.Errorf("it says %q, %v", out, err)
	}
	if head, err := source().Head(t.Context(), ""); err != nil || head != done.Digest {
		t.Errorf("the tag names %s, %v", head, err)
	}
	if out, _, err := publishes(t, "--print", "-f", file, ref); err != nil || !strings.Contains(out, "/db:latest@"+db.String()) {
		t.Errorf("it prints %s, %v", out, err)
	}

	req, err := source().Stack(t.Context(), done.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if req.Stack.Name != "here" || len(req.Stack.Services) != 2 || len(req.Contents) != 1 {
		t.Fatalf("a node deploys %+v", req)
	}
	for _, service := range req.Stack.Services {
		want := map[string]digest.Digest{"web": web, "db": db}[service.Name]
		if service.Digest != want {
			t.Errorf("%s is of %s, want %s", service.Name, service.Digest, want)
		}
		if env := strings.Join(service.Container.Env, " "); service.Name == "web" && (!strings.Contains(env, "PRICE=5$") || !strings.Contains(env, "FROM="+os.Getenv("HOME"))) {
			t.Errorf("the environment is %s", env)
		}
	}
	for _, content := range req.Contents {
		if string(content) != "hello $1\n" {
			t.Errorf("the config is %q", content)
		}
	}
	image := pushImage(t, s, "stacks/shop", "image")
	if _, err := source().Stack(t.Context(), image); !errors.Is(err, runner.ErrInvalid) || !strings.Contains(err.Error(), "it is no stack") {
		t.Errorf("an image as a stack: %v", err)
	}
	if _, err := source().Stack(t.Context(), digest.FromString("none")); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("a stack that is not there: %v", err)
	}
	s.Kill() // to end well it would wait for connections that were opened and not used
}

// TestPublishUsage refuses what is no tag.
func TestPublishUsage(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{"localhost:5000/shop", "localhost:5000/Shop:1", "localhost:5000/shop:1@" + digest.FromString("").String(), "localhost:5000/shop@" + digest.FromString("").String(), ":"} {
		if _, _, err := publishes(t, "-f", "none.yaml", ref); err == nil || !strings.Contains(err.Error(), "REGISTRY/REPOSITORY:TAG") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// TestLoadBundle loads what docker compose publishes: of several files, and such that
// they are made of.
func TestLoadBundle(t *testing.T) {
	t.Parallel()
	b := artifact.Bundle{
		Compose:  []byte("services:\n  web:\n    image: localhost:5000/web:1\n    env_file: [x.env]\n    extends: {file: base.yaml, service: base}\n\n---\nservices:\n  web:\n    image: localhost:5000/web:2\n"),
		Extends:  map[string][]byte{"base.yaml": []byte("services: {base: {image: none, environment: {BASE: \"1\"}}}\n")},
		EnvFiles: map[string][]byte{"x.env": []byte("X=2\n")},
	}
	l, err := loadBundle(t.Context(), b, "localhost:5000/stacks/shop:prod", "here")
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Join(l.Stack.Services[0].Container.Env, " ")
	if l.Stack.Name != "here" || l.Stack.Services[0].Image != "localhost:5000/web:2" || !strings.Contains(env, "BASE=1") || !strings.Contains(env, "X=2") {
		t.Errorf("loaded %+v with %s", l.Stack, env)
	}
	// Beside the directory in which the bundle is looked at.
	stray := filepath.Join(os.TempDir(), fmt.Sprintf("stray-%d", os.Getpid()))
	for file, text := range map[string]string{stray + ".env": "X=1\n", stray + ".yaml": "services: {base: {image: none}}\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(file) })
	}
	for name, text := range map[string]string{
		"a mount":  "services: {web: {image: x, env_file: [x.env], volumes: [\"./data:/data\"]}}",
		"a secret": "services: {web: {image: x, env_file: [x.env], secrets: [s]}}\nsecrets: {s: {file: ./x.env}}",
		"no YAML":  "services: [",
		"missing":  "services: {web: {image: x, env_file: [y.env]}}",
		// What lies elsewhere is this host's.
		"above":        "services: {web: {image: x, env_file: [../stray.env]}}",
		"absolute":     "services: {web: {image: x, env_file: " + stray + ".env}}",
		"merged":       "x-y: &y {env_file: {path: ../stray.env}}\nservices: {web: {<<: *y, image: x}}",
		"by profile":   "services: {web: {image: x}, more: {image: x, profiles: [p], env_file: [{path: ../stray.env}]}}",
		"labels":       "services: {web: {image: x, label_file: ../stray.env}}",
		"extended":     "services: {web: {extends: {file: ../stray.yaml, service: base}}}",
		"below":        "services: {web: {image: x, extends: {file: up.yaml, service: base}}}",
		"included":     "include: [base.yaml]\nservices: {web: {image: x}}",
		"later":        "services: {web: {image: x}}\n---\nservices: {web: {env_file: ../stray.env}}",
		"config":       "services: {web: {image: x, configs: [c]}}\nconfigs: {c: {file: x.env}}",
		"variable":     "services: {web: {image: x, environment: {A: \"${NONE}\"}}}",
		"in a name":    "services: {web: {image: x, env_file: \"${NONE:-../stray.env}\"}}",
		"environment":  "services: {web: {image: x, configs: [c]}}\nconfigs: {c: {environment: HOME}}",
		"another host": "services: {web: {extends: {file: \"https://localhost/x.yaml\", service: base}}}",
	} {
		above := func(text string) []byte {
			return []byte(strings.ReplaceAll(text, "../stray", "../"+filepath.Base(stray)))
		}
		b.Compose = above(text)
		b.Extends["up.yaml"] = above("services: {base: {extends: {file: ../stray.yaml, service: base}}}\n")
		if l, err := loadBundle(context.Background(), b, "ref", "here"); !errors.Is(err, runner.ErrInvalid) || strings.Contains(err.Error(), os.TempDir()+"/stack-") {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "stack-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%q is left, %v", left, err)
	}
}
