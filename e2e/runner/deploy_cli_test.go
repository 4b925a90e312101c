package runner

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestDeployCommands has the commands take the stack of testdata/deploy through its
// life: what they say, what serves meanwhile, and that nothing is left.
func TestDeployCommands(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	s := &shop{host: h, dir: filepath.Join(t.TempDir(), "shop")}
	if err := os.CopyFS(s.dir, os.DirFS("testdata/deploy")); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"busybox", "web:v1", "web:v2"} {
		h.docker.Run("pull", "-q", h.image(image))
	}
	before := h.usedCensus()
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"nothing yet", s.nothingYet},
		{"private registry", s.privateRegistry},
		{"first version", s.firstVersion},
		{"status", s.status},
		{"second version", s.secondVersion},
		{"broken version", s.brokenVersion},
		{"rollback", s.rollback},
		{"scale and logs", s.scaleAndLogs},
		{"interrupt and cancel", s.interrupt},
		{"killed runner", s.killedRunner},
		{"detach", s.detach},
		{"remove", s.remove},
	} {
		if !t.Run(part.name, part.run) {
			t.FailNow() // what follows stands on it
		}
	}
	berthtest.Settle(t, before, func() berthtest.Census {
		return slices.DeleteFunc(h.Census(t), func(line string) bool { return strings.HasSuffix(line, "/network/services.json") }) // of no services
	})
}

// shop is the stack of testdata/deploy on a host.
type shop struct {
	*host

	dir string
}

// command is the berth-runner command in the stack's directory, for a version of it.
func (s *shop) command(t *testing.T, version string, args ...string) *berthtest.Command {
	t.Helper()
	return s.Berth(t, args...).Dir(s.dir).Env("REGISTRY="+strings.TrimSuffix(s.repository(""), "/"), "VERSION="+version)
}

// says runs the command, which must succeed and say what matches all of the
// expressions, and returns what it said.
func (s *shop) says(t *testing.T, c *berthtest.Command, want ...string) string {
	t.Helper()
	out, errOut, err := c.Try()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	matches(t, out+errOut, want)
	return out
}

// failsWith runs the command, which must fail with an exit code and say what matches all
// of the expressions.
func (s *shop) failsWith(t *testing.T, c *berthtest.Command, code int, want ...string) {
	t.Helper()
	out, errOut, err := c.Try()
	failed, ok := errors.AsType[*exec.ExitError](err)
	if !ok || failed.ExitCode() != code {
		t.Fatalf("ends with %v, want %d\n%s%s", err, code, out, errOut)
	}
	matches(t, out+errOut, want)
}

func matches(t *testing.T, text string, want []string) {
	t.Helper()
	for _, w := range want {
		if !regexp.MustCompile(`(?m)` + w).MatchString(text) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

// serves fails the test unless the stack answers with a version.
func (s *shop) serves(t *testing.T, path, want string) {
	t.Helper()
	resp, err := s.Machine.Client().Get("http://localhost:8080" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || strings.TrimSpace(string(text)) != want {
		t.Errorf("%s answers %q, %v; want %q", path, text, err, want)
	}
}

func (s *shop) nothingYet(t *testing.T) {
	s.says(t, s.command(t, "v1", "status"), `^STACK +REVISION +SERVICES +READY +STATE$`)
	s.failsWith(t, s.command(t, "v1", "status", "shop"), 1, `there is no stack "shop", and no other: deploy one with 'berth-runner deploy`)
	s.failsWith(t, s.command(t, "v1", "deploy", "-f", "none.yaml"), 1, `none\.yaml`)
	s.says(t, s.command(t, "v1", "diff"), `service web`, `\+image: .*/web:v1$`, `^To deploy it would do this:\nshop, revision 1:`)
	out := s.says(t, s.command(t, "v1", "deploy", "--dry-run"), `^shop, revision 1:`, `^create +web +shop-web-r1-1 shop-web-r1-2`)
	if ps := s.docker.Run("ps", "-aq"); ps != "" {
		t.Errorf("a dry run makes containers:\n%s%s", out, ps)
	}
}

// privateRegistry deploys an image of a registry that wants credentials: with those of
// docker's configuration, and not without.
func (s *shop) privateRegistry(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "htpasswd")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, htpasswd)
	private := berthtest.Start(t, berthtest.Options{
		Machine: s.Machine, Config: "auth: {htpasswd: {file: " + file + "}}\npolicy: [{who: [authenticated], repos: ['**'], may: [pull, push]}]\n",
	})
	seed(t, s.Machine, private.Addr, "REGISTRY_USER=someone", "REGISTRY_PASS=correct horse")
	image := private.Addr + "/seedtest/busybox"
	write(filepath.Join(dir, "compose.yaml"), "name: private\nservices:\n  worker:\n    image: "+image+
		"\n    command: [sleep, infinity]\n    secrets: [pin]\n    stop_grace_period: 0s\n    deploy: {update_config: {monitor: 100ms}}\nsecrets: {pin: {file: pin}}\n")
	write(filepath.Join(dir, "pin"), "the-secret-pin")
	s.failsWith(t, s.Berth(t, "deploy").Dir(dir), 1, `^berth-runner: .*(denied|unauthorized|authentication required|no basic auth)`)
	write(filepath.Join(dir, "config.json"), `{"auths": {"`+private.Addr+`": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("someone:correct horse"))+`"}}}`)
	s.says(t, s.Berth(t, "deploy").Dir(dir).Env("DOCKER_CONFIG="+dir), `^private is deployed: revision \d$`)
	s.keepsSecrets(t, dir)
	s.says(t, s.Berth(t, "rm", "private", "--yes"))
	s.docker.Run("rmi", image)
}

// keepsSecrets looks for what is secret of the stack that was just deployed: credentials
// are nowhere, and the content of the secret is where root alone reaches it.
func (s *shop) keepsSecrets(t *testing.T, dir string) {
	err := os.WriteFile(filepath.Join(dir, "pin"), []byte("another-secret-pin"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	said := s.says(t, s.Berth(t, "diff").Dir(dir), "secret, another one")
	for _, args := range [][]string{{"status", "private", "--json"}, {"history", "private", "--json"}} {
		said += s.says(t, s.Berth(t, args...))
	}
	if pin := digest.FromString("the-secret-pin").Encoded(); strings.Contains(said, "secret-pin") || strings.Contains(said, pin[:12]) {
		t.Errorf("what is secret is said:\n%s", said)
	}
	found := 0
	err = filepath.WalkDir(filepath.Join(s.Data, "stacks"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			if info.Mode().Perm() != 0o700 {
				t.Errorf("%s has the mode %s", path, info.Mode())
			}
			return nil
		}
		text, err := os.ReadFile(path)
		for _, secret := range []string{"correct horse", base64.StdEncoding.EncodeToString([]byte("someone:correct horse"))} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has the credentials of a registry", path)
			}
		}
		if strings.Contains(string(text), "the-secret-pin") {
			found++
		}
		return err
	})
	if err != nil || found != 2 {
		t.Errorf("the secret is in %d files, and not in the one that is kept and the one that is mounted: %v", found, err)
	}
}

func (s *shop) firstVersion(t *testing.T) {
	s.says(t, s.command(t, "v1", "deploy"), `^shop is deployed: revision 1$`)
	s.says(t, s.command(t, "v1", "deploy"), `^shop: nothing has changed: revision 1 is in service$`)
	s.says(t, s.command(t, "v1", "deploy", "--dry-run"), `^shop, revision 1:\nnothing`)
	if out := s.docker.Run("ps"); !strings.Contains(out, "/web:v1 ") {
		t.Errorf("docker ps does not say which image of web runs:\n%s", out)
	}
	s.serves(t, "/", "seedtest web v1")
	s.serves(t, "/greeting", "hello")
	s.failsWith(t, s.command(t, "v1", "status", "shp"), 1, `there is no stack "shp": there is shop$`)
}

func (s *shop) status(t *testing.T) {
	s.says(t, s.command(t, "v1", "status"), `^shop +1 +2 +3/3 +ok$`)
	s.says(t, s.command(t, "v1", "status", "shop", "--containers"),
		`^shop: revision 1$`, `^web +\S+/web:v1@[0-9a-f]{12} +blue-green +2/2 +8080->8080/tcp +1$`, `^worker .* rolling +1/1`,
		`^shop-web-r1-2 +web +1 +running +healthy +50% +-$`)
	var status deploy.Status
	if err := json.Unmarshal([]byte(s.says(t, s.command(t, "v1", "status", "shop", "--json"))), &status); err != nil {
		t.Fatal(err)
	}
	if status.Revision != 1 || len(status.Services) != 2 || len(status.Drift) > 0 {
		t.Errorf("as JSON the status is %+v", status)
	}
	s.says(t, s.command(t, "v1", "diff", "--exit-code"))
	s.says(t, s.command(t, "v1", "__complete", "status", ""), `^shop$`)
	s.says(t, s.command(t, "v1", "__complete", "scale", "shop", ""), `^web=$`, `^worker=$`)
	s.says(t, s.command(t, "v1", "__complete", "logs", "shop", ""), `^web$`, `^worker$`)
	s.failsWith(t, s.command(t, "v2", "diff", "--exit-code"), 1,
		`^--- service web, in service$`, `^-image: \S+/web:v1$`, `^\+image: \S+/web:v2$`, `^To deploy it would do this:\nshop, revision 2:`,
		`^create +web +shop-web-r2-1 shop-web-r2-2`, `^keep +worker +shop-worker-r1-1`)
}

func (s *shop) secondVersion(t *testing.T) {
	if err := os.WriteFile(filepath.Join(s.dir, "greeting"), []byte("good day\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := s.says(t, s.command(t, "v2", "deploy", "--json"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var last struct{ Result deploy.Revision }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Result.Number != 2 || last.Result.Outcome != deploy.Deployed {
		t.Errorf("the last line is %s: %v", lines[len(lines)-1], err)
	}
	s.serves(t, "/", "seedtest web v2")
	s.serves(t, "/greeting", "good day")
	s.says(t, s.command(t, "v2", "diff", "shop", "--from", "1"), `^-image: \S+/web:v1@[0-9a-f]{12}$`, `^\+image: \S+/web:v2@[0-9a-f]{12}$`, `^\+  greeting: [0-9a-f]{12}$`)
}

func (s *shop) brokenVersion(t *testing.T) {
	s.failsWith(t, s.command(t, "v2", "deploy", "-f", "compose.yaml", "-f", "broken.yaml"), 1,
		`the last lines of shop-web-r3-[12]:`, `^  \| .*there is no database$`,
		`^berth-runner: shop: revision 3 was not taken: service web: .*\b3\b`, `^berth-runner: revision 2 serves on: all is as it was before$`)
	s.serves(t, "/", "seedtest web v2")
	s.says(t, s.command(t, "v2", "history", "shop"),
		`^REVISION +STARTED +TOOK +BY +FROM +OUTCOME +KEPT +IMAGES$`, `^3 .*@.* compose.yaml and 1 more +rolled back: `,
		`^2 .* deployed `, `^1 .*s +\S+@\S+ +compose.yaml +deployed +yes +web=[0-9a-f]{12} worker=[0-9a-f]{12}$`)
	s.failsWith(t, s.command(t, "v2", "status", "shop", "--wait"), 1, `^berth-runner: shop: revision 3: rolled back: `)
}

func (s *shop) rollback(t *testing.T) {
	s.failsWith(t, s.command(t, "v2", "rollback", "shop", "--to", "17"), 1, `17`)
	s.says(t, s.command(t, "v2", "rollback", "shop"), `^shop is rolled back to revision 1: revision 4$`)
	s.serves(t, "/", "seedtest web v1")
	s.serves(t, "/greeting", "hello")
	s.says(t, s.command(t, "v2", "rollback", "shop", "--to", "2"), `^shop is rolled back to revision 2: revision 5$`)
	s.serves(t, "/", "seedtest web v2")
}

func (s *shop) scaleAndLogs(t *testing.T) {
	s.failsWith(t, s.command(t, "v2", "scale", "shop", "nothing=2"), 1, `nothing`)
	next := 0
	stop := s.command(t, "v2", "logs", "shop", "--follow").Service(func(log string) error {
		listen, works := strings.Count(log, "web: listening"), strings.Count(log, "works")
		switch { // what comes later is followed, too: another container, and one that starts again
		case next == 0 && listen == 2 && works == 1:
			s.says(t, s.command(t, "v2", "scale", "shop", "web=3"), `^shop is scaled: revision 6$`)
			next++
		case next == 1 && listen == 3 && works == 1:
			s.docker.Run("restart", "shop-worker-r1-1")
			next++
		case next == 2 && listen == 3 && works == 2:
			return nil
		case listen > 3 || works > 2:
			t.Fatalf("a line is there twice:\n%s", log)
		}
		return errors.New("not all lines are there yet")
	})
	s.says(t, s.command(t, "v2", "status", "shop"), `^web .* 3/3 `)
	out := s.says(t, s.command(t, "v2", "logs", "shop"), `^shop-worker-r1-1 +\| works$`)
	if n := strings.Count(out, "web: listening on 8080"); n != 3 {
		t.Errorf("%d containers have logs, want 3:\n%s", n, out)
	}
	s.says(t, s.command(t, "v2", "logs", "shop", "worker", "--tail", "1", "--timestamps"), `^shop-worker-r1-1 \| \d{4}-\d\d-\d\dT\S+Z works$`)
	s.failsWith(t, s.command(t, "v2", "logs", "shop", "wrk"), 1, `shop has no service "wrk": it has web, worker`)
	if code := stop(syscall.SIGINT); code != 0 {
		t.Errorf("an interrupt ends it with %d", code)
	}
}

// interrupt has a deployment go on when the command is interrupted, and be taken back.
func (s *shop) interrupt(t *testing.T) {
	stop := s.command(t, "v1", "deploy").Env("MONITOR=1m").Service(func(log string) error {
		if !strings.Contains(log, "start shop-web-r7-") {
			return errors.New("it has not begun yet")
		}
		return nil
	})
	if code := stop(syscall.SIGINT); code != 1 {
		t.Errorf("an interrupt ends it with %d", code)
	}
	s.says(t, s.command(t, "v1", "status"), `^shop .* deploying revision 7$`)
	s.failsWith(t, s.command(t, "v2", "deploy"), 1, `^berth-runner: shop: .*: 'berth-runner status shop --wait' watches it, 'berth-runner cancel shop' takes it back$`)
	s.says(t, s.command(t, "v1", "cancel", "shop"), `^shop: the deployment was taken back$`)
	s.serves(t, "/", "seedtest web v2")
	s.failsWith(t, s.command(t, "v1", "cancel", "shop"), 1, `shop`)
	s.says(t, s.command(t, "v2", "history", "shop"), `^7 .* cancelled`)
}

// killedRunner has the runner be killed while the command watches, which says so, and
// what becomes of the deployment.
func (s *shop) killedRunner(t *testing.T) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.failsWith(t, s.command(t, "v1", "deploy").Env("MONITOR=1m"), 1,
			`^berth-runner: shop: the daemon went away: .* it goes on, or goes back, when the runner runs again: 'berth-runner status shop --wait'`)
	}()
	if err := eventually(func() error {
		if !strings.Contains(s.command(t, "v1", "status").Run(), "deploying revision 8") {
			return errors.New("it has not begun yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	<-ended
	s.failsWith(t, s.command(t, "v1", "status"), 1, `no berth-runner answers at unix:///run/berth/runner.sock: is it running\?`)
	s.Restart()
	_, _, _ = s.command(t, "v1", "cancel", "shop").Try() // it may have gone back by itself
	_, _, _ = s.command(t, "v1", "status", "shop", "--wait").Try()
	s.serves(t, "/", "seedtest web v2")
}

func (s *shop) detach(t *testing.T) {
	s.says(t, s.command(t, "v1", "deploy", "--detach"), `^shop: the runner goes on with it: 'berth-runner status shop --wait'`)
	s.says(t, s.command(t, "v1", "status", "shop", "--wait"), `^shop: revision 9$`)
	s.serves(t, "/", "seedtest web v1")
}

func (s *shop) remove(t *testing.T) {
	s.failsWith(t, s.command(t, "v1", "rm", "shop"), 2, `shop would be removed: say --yes if that is meant`)
	s.says(t, s.command(t, "v1", "rm", "shop", "--volumes", "--yes"), `^shop is removed$`)
	s.failsWith(t, s.command(t, "v1", "rm", "shop", "--yes"), 1, `there is no stack "shop"`)
	if left := s.docker.Run("ps", "-aq") + s.docker.Run("volume", "ls", "-q"); left != "" {
		t.Errorf("it leaves %s", left)
	}
}
