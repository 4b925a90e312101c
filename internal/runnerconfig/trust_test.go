package runnerconfig

import (
	"reflect"
	"strings"
	"testing"
)

func TestTrust(t *testing.T) {
	c, err := schema.Parse("runner.yaml", []byte(`trust:
- {images: ["r.example.com/prod/**", "localhost:5000/a"], keys: [/k.pub, /l.pub], root: /log.json}
- {images: [local], allow: true}
- {images: ["ghcr.io/acme/*"], issuer: "https://i.example.com", subjects: ["https://github.com/acme/**", "a@example.com"], root: /root.json}
- {images: ["**"], deny: true}
`))
	want := []TrustRule{
		{Images: []string{"r.example.com/prod/**", "localhost:5000/a"}, Keys: []string{"/k.pub", "/l.pub"}, Root: "/log.json"},
		{Images: []string{"local"}, Allow: true},
		{Images: []string{"ghcr.io/acme/*"}, Issuer: "https://i.example.com", Subjects: []string{"https://github.com/acme/**", "a@example.com"}, Root: "/root.json"},
		{Images: []string{"**"}, Deny: true},
	}
	if err != nil || !reflect.DeepEqual(c.Trust, want) {
		t.Errorf("rules are %+v, %v", c.Trust, err)
	}
	changed, needRestart := Reloadable(Default(), c)
	if !reflect.DeepEqual(changed, []string{"trust"}) || needRestart != nil {
		t.Errorf("changed %q, need a restart %q", changed, needRestart)
	}
}

func TestTrustProblems(t *testing.T) {
	for rule, want := range map[string]string{
		`{allow: true}`:                                        "expected images in rule 1",
		`{images: ["**"]}`:                                     "expected one of keys",
		`{images: ["**"], allow: false}`:                       "expected one of keys",
		`{images: ["**"], allow: true, deny: true}`:            "expected one of keys",
		`{images: ["**"], keys: [/k], allow: true}`:            "expected one of keys",
		`{images: ["**"], keys: [/k], issuer: "https://i"}`:    "expected one of keys",
		`{images: ["**"], issuer: "https://i", root: /r}`:      "expected all of issuer, subjects and root",
		`{images: ["**"], issuer: "https://i", subjects: [a]}`: "expected all of issuer, subjects and root",
		`{images: ["**"], subjects: [a], root: /r}`:            "expected all of issuer, subjects and root",
		`{images: ["**"], allow: true, root: /r}`:              "expected no root in rule 1",
		`{images: ["**"], keys: [cosign.pub]}`:                 "absolute paths",
		`{images: [acme/app], deny: true}`:                     "with a registry's host",
		`{images: [alpine], deny: true}`:                       "with a registry's host",
		`{images: [docker.io/alpine], deny: true}`:             "docker.io/library/alpine",
		`{images: ["r.example.com"], deny: true}`:              "with a registry's host",
		`{images: ["r.example.com/app:v1"], deny: true}`:       "with a registry's host",
		`{images: ["r.example.com/App"], deny: true}`:          "with a registry's host",
		`{images: ["**"], deny: true, key: /k}`:                "unknown key",
	} {
		_, err := schema.Parse("runner.yaml", []byte("trust:\n- "+rule+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", rule, err, want)
		}
	}
	for _, pattern := range []string{"**", "*/x", "*.example.com/**", "r.example.com:5000/**", "localhost/a", "docker.io/**", "docker.io/library/*", "[::1]:5000/a", "local"} {
		if !imagePattern(pattern) {
			t.Errorf("%q is taken for no pattern of images", pattern)
		}
	}
}
