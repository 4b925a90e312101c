package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestTrust runs images by rules: signed ones, others, and those that pretend; after
// other rules, another runner, and with the registry away.
func TestTrust(t *testing.T) {
	t.Parallel()
	m, dir := berthtest.NewMachine(t, berthtest.MachineOptions{}), t.TempDir()
	config := filepath.Join(dir, "runner.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	h := newHostOn(t, m, "--config", config)
	reload := func(rules string) {
		t.Helper()
		write(rules)
		before := strings.Count(h.Log(), "configuration reloaded")
		if err := syscall.Kill(h.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if err := eventually(func() error {
			if strings.Count(h.Log(), "configuration reloaded") == before {
				return fmt.Errorf("not reloaded")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	cosign := func(args ...string) {
		t.Helper()
		berthtest.NewCommand(t, "cosign").On(m).Dir(dir).Env("COSIGN_PASSWORD=secret", "HOME="+dir, "DOCKER_CONFIG="+dir).Run(args...)
	}
	cosign("signing-config", "create", "--out", "services.json")
	for _, key := range []string{"good", "bad"} {
		cosign("generate-key-pair", "--output-key-prefix", key)
	}
	// Images of different content are made here, and then only the registry has them.
	h.docker.Run("create", "--name", "base", h.image("busybox"))
	for name, key := range map[string]string{"prod/signed": "good", "prod/older": "older", "prod/other": "bad", "prod/plain": "", "open/app": "", "evil/app": ""} {
		image := h.repository(name)
		h.docker.Run("commit", "--change", "LABEL name="+name, "base", image)
		h.docker.Run("push", "-q", image)
		digest := strings.TrimSpace(h.docker.Run("image", "inspect", "-f", "{{index .RepoDigests 0}}", image))
		switch key {
		case "":
		case "older":
			cosign("sign", "--yes", "--allow-http-registry", "--key", "good.key", "--use-signing-config=false", "--new-bundle-format=false", "--tlog-upload=false", digest)
		default:
			cosign("sign", "--yes", "--allow-http-registry", "--key", key+".key", "--signing-config", "services.json", digest)
		}
		h.docker.Run("rmi", image)
	}
	h.docker.Run("run", "-d", "--name", "before", h.repository("evil/app"), "sleep", "1000")
	h.docker.Run("create", "--name", "made-before", h.repository("evil/app"), "true")
	rules := func(key string) string {
		return fmt.Sprintf("trust:\n- {images: [%q], keys: [%s/%s.pub]}\n- {images: [%q], allow: true}\n- {images: [\"**\"], deny: true}\n",
			h.repository("prod/**"), dir, key, h.repository("open/*"))
	}
	reload(rules("good"))

	refused := func(says string, args ...string) {
		t.Helper()
		_, stderr, err := h.docker.Try(args...)
		if err == nil || !strings.Contains(stderr, "may not run on this host: ") || !strings.Contains(stderr, says) {
			t.Errorf("docker %s: %v, %s; want %q", strings.Join(args, " "), err, stderr, says)
		}
	}
	for _, name := range []string{"prod/signed", "prod/older", "open/app"} {
		h.docker.Run("run", "--rm", h.repository(name), "true")
	}
	refused("prod/plain@sha256:", "run", "--rm", h.repository("prod/plain"), "true")
	refused("of 1 signature that were found", "run", "--rm", h.repository("prod/other"), "true")
	refused("rule 3 of the policy denies", "create", h.repository("evil/app"))
	refused("rule 3 of the policy denies", "start", "made-before")
	refused("rule 3 of the policy denies", "create", "--mount", "type=image,target=/evil,source="+h.repository("evil/app"), h.repository("open/app"))
	for name, says := range map[string]string{"open/app": "", "evil/app": "rule 3 of the policy denies"} {
		files := t.TempDir()
		text := "FROM " + h.repository(name) + "\nRUN true\n"
		if err := os.WriteFile(filepath.Join(files, "Dockerfile"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, pull := range []string{"--pull=false", "--pull"} {
			if says == "" {
				h.docker.Run("build", pull, files)
			} else {
				refused(says, "build", pull, files)
			}
		}
	}
	if state := h.docker.Run("inspect", "-f", "{{.State.Running}}", "before"); state != "true\n" {
		t.Errorf("what ran before runs: %s", state)
	}
	refused("rule 3 of the policy denies", "restart", "-t", "0", "before")
	if err := eventually(func() error {
		if !strings.Contains(h.Log(), "it is left alone until its next start") {
			return fmt.Errorf("the log does not tell of a container that runs and may not")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if said := h.docker.Run("pull", h.repository("prod/plain")); !strings.Contains(said, "Warning: image "+h.repository("prod/plain")) {
		t.Errorf("a pull says %s", said)
	}
	// Names, archives and what is made of a good image do not make one good.
	h.docker.Run("tag", h.repository("evil/app"), h.repository("prod/signed"))
	refused("denies "+h.repository("evil/app"), "run", "--rm", h.repository("prod/signed"), "true")
	archive := filepath.Join(dir, "evil.tar")
	h.docker.Run("save", "-o", archive, h.repository("prod/signed"))
	h.docker.Run("rm", "-f", "before", "made-before")
	h.docker.Run("rmi", h.repository("prod/signed"), h.repository("evil/app"))
	h.docker.Run("load", "-i", archive)
	refused("what came from no registry (local)", "run", "--rm", h.repository("prod/signed"), "true")
	h.docker.Run("rmi", h.repository("prod/signed"))
	h.docker.Run("commit", "base", h.repository("prod/mine"))
	refused("what came from no registry (local)", "run", "--rm", h.repository("prod/mine"), "true")

	// A container that is started again and again, and a registry that is away.
	h.docker.Run("run", "-d", "--restart", "always", "--name", "always", h.repository("prod/signed"), "sleep", "1000")
	h.registry.Stop()
	h.Stop()
	m.Reboot()
	h.Restart()
	h.docker, h.api = h.Docker(t), engine{h.Client(t)}
	ctx := t.Context()
	h.are(ctx, "running 0", "always")
	reload(rules("bad"))
	refused("cannot be fetched", "restart", "-t", "0", "always")
	reload(rules("good"))
	h.docker.Run("start", "always")
	write(strings.Replace(rules("good"), "/prod/**", "/none/**", 1))
	h.Stop()
	m.Reboot()
	h.Restart()
	h.docker, h.api = h.Docker(t), engine{h.Client(t)}
	if err := eventually(func() error {
		if state := h.docker.Run("inspect", "-f", "{{.State.Status}} {{.State.Error}}", "always"); !strings.HasPrefix(state, "exited image ") {
			return fmt.Errorf("a container that may not run any more is %s", state)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	write("trust: [{images: [\"**\"], keys: [/nowhere.pub]}]\n")
	h.Stop()
	h.Refuses()
	write("")
	h.Restart()
}
