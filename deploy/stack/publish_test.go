package stack

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/berth-registry/berth/runner"
)

const publishable = `
-- compose.yaml --
name: shop
x-berth: {rollout: {parallel: 2}}
services:
  web:
    image: registry.example.com/web:1
    env_file: web.env
    configs: [conf, text, env]
    secrets: [key]
    ports: ["80:80"]
    volumes: ["data:/data:ro", "/abs:/abs:ro"]
    build: .
  db:
    image: postgres@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  cache:
    image: redis
volumes: {data: }
configs:
  conf: {file: ./web.conf}
  text: {content: "a: $$b"}
  env: {environment: VAR}
secrets:
  key: {file: $DIR/key}
-- web.env --
A=1
-- web.conf --
price = $5
-- key --
secret
-- options --
env VAR=of the environment $1
`

const otherDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func digests() map[string]digest.Digest {
	return map[string]digest.Digest{"web": digest.FromString("web"), "cache": digest.FromString("cache")}
}

// TestPin publishes a stack, and loads on a node what was published.
func TestPin(t *testing.T) {
	t.Parallel()
	c := unpack(t, txtar.Parse([]byte(publishable)))
	l, err := c.load(t)
	if err != nil {
		t.Fatal(err)
	}
	data, warnings, err := l.Pin(digests())
	if err != nil {
		t.Fatal(err)
	}
	if want := "compose.yaml:6: services.web.env_file: its variables are published, for everybody to read who may pull the stack"; len(warnings) != 1 || !strings.HasSuffix(warnings[0], want) {
		t.Errorf("the warnings are %q, and not one that ends in %q", warnings, want)
	}
	if strings.Contains(string(data), "secret\n") || strings.Contains(string(data), "env_file") || strings.Contains(string(data), "build") {
		t.Errorf("what is published is\n%s", data)
	}
	node, err := FromYAML(t.Context(), "shop:prod", data)
	if err != nil {
		t.Fatalf("what is published is refused: %v\n%s", err, data)
	}
	images := map[string]string{}
	for _, s := range node.Stack.Services {
		images[s.Name] = s.Image
		if s.Container.Image != s.Image || s.Digest == "" {
			t.Errorf("the image of %s is %s, and its digest %s", s.Name, s.Container.Image, s.Digest)
		}
	}
	for name, want := range map[string]string{
		"web":   "registry.example.com/web:1@" + string(digest.FromString("web")),
		"db":    "docker.io/library/postgres@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"cache": "docker.io/library/redis:latest@" + string(digest.FromString("cache")),
	} {
		if images[name] != want {
			t.Errorf("the image of %s is %s, and not %s", name, images[name], want)
		}
	}
	for _, content := range []string{"price = $5\n", "a: $b", "of the environment $1", "secret\n"} {
		if _, ok := node.Contents[digest.FromString(content)]; !ok {
			t.Errorf("the node has no %q", content)
		}
	}
	if node.Rollout == nil || node.Rollout.Parallel != "2" {
		t.Errorf("the rollout is %+v", node.Rollout)
	}
	again, err := FromYAML(t.Context(), "shop:prod", []byte(node.Stack.Source))
	if err != nil || compact(t, again.Stack) != compact(t, node.Stack) {
		t.Errorf("what the node resolves is another stack: %v", err)
	}
	before, err := l.Resolved()
	if err != nil || string(before) != l.Stack.Source {
		t.Errorf("publishing has changed what was loaded: %v", err)
	}
}

// TestPinWarns has variables whose values look like secrets, and some that do not.
func TestPinWarns(t *testing.T) {
	t.Parallel()
	c := unpack(t, txtar.Parse([]byte("-- compose.yaml --\nname: x\nservices:\n  web:\n    image: "+
		"web@"+otherDigest+"\n    environment:\n      DB_PASSWORD: ${DB_PASSWORD}\n      aws_secret_access_key: a\n"+
		"      API_TOKEN:\n      DB_PASSWORD_FILE: /run/secrets/db\n      TOKENIZER: a\n      KEYBOARD: b\n      EMPTY_TOKEN: ''\n-- options --\nenv DB_PASSWORD=hunter2\n")))
	l, err := c.load(t)
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := l.Pin(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := c.short(strings.Join(warnings, "\n"))
	for _, want := range []string{"compose.yaml:6: services.web.environment.DB_PASSWORD: its value is published", "compose.yaml:7: services.web.environment.aws_secret_access_key: "} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the warnings:\n%s", want, got)
		}
	}
	if len(warnings) != 2 || strings.Contains(got, "hunter2") {
		t.Errorf("the warnings are\n%s", got)
	}
}

// TestPinRefuses has what cannot go to a registry.
func TestPinRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, compose, want string }{
		{"digest that is not known", `
  web: {image: other}`, `compose.yaml:3: services.web.image: the digest of other is not known`},
		{"another digest", `
  web: {image: "web@` + otherDigest + `"}`, `compose.yaml:3: services.web.image: web@` + otherDigest + ` is not ` + string(digest.FromString("web"))},
		{"relative bind", `
  web:
    image: web
    volumes:
      - /abs:/abs
      - ./data:/data`, `compose.yaml:7: services.web.volumes[1]: $DIR/data is relative to the Compose file, which nodes do not have: say an absolute path, a volume, or a config`},
		{"bind of a variable", `
  web:
    image: web
    volumes:
      - {type: bind, source: "${VAR}", target: /a}
      - {type: bind, source: "${ABS}", target: /b}`, `compose.yaml:6: services.web.volumes[0]: $DIR/relative is relative to the Compose file, which nodes do not have: say an absolute path, a volume, or a config`},
		{"home", `
  web:
    image: web
    volumes: [{type: bind, source: "../x", target: /a}]`, `compose.yaml:5: services.web.volumes[0]: $UP/x is relative to the Compose file, which nodes do not have: say an absolute path, a volume, or a config`},
		{"secret of a variable", `
  web: {image: web, secrets: [s]}
secrets: {s: {environment: VAR}}`, `compose.yaml:4: secrets.s: a secret is not published: say file, with an absolute path that each node has`},
		{"relative secret", `
  web: {image: web, secrets: [s]}
secrets: {s: {file: s}}`, `compose.yaml:4: secrets.s.file: a secret is not published, and $DIR/s is relative to the Compose file: say an absolute path that each node has`},
		{"config that is no text", `
  web: {image: web, configs: [c]}
configs: {c: {file: bin}}`, `compose.yaml:4: configs.c: its content is no text, and cannot stand in a Compose file`},
		{"seccomp profile", `
  web: {image: web, security_opt: ["seccomp=p.json"]}`, `compose.yaml:3: services.web.security_opt[0]: the seccomp profile p.json is relative to the Compose file, which nodes do not have: say an absolute path`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := unpack(t, txtar.Parse([]byte("-- compose.yaml --\nname: x\nservices:"+test.compose+
				"\n-- s --\nx\n-- bin --\n\x00\xff\n-- p.json --\n{}\n-- options --\nenv VAR=./relative\nenv ABS=/absolute\n")))
			l, err := c.load(t)
			if err != nil {
				t.Fatal(err)
			}
			known := digests()
			if test.name == "digest that is not known" {
				known = nil
			}
			_, _, err = l.Pin(known)
			if err == nil || !errors.Is(err, runner.ErrInvalid) {
				t.Fatalf("the error is %v", err)
			}
			if got := c.short(err.Error()); got != test.want {
				t.Errorf("the error is\n%s\nand not\n%s", got, test.want)
			}
		})
	}
}
