package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"berth": func() { os.Exit(Main()) }})
}

// TestClientCommands runs the transcripts in testdata/script. Each has two empty
// registries: the default one, at $BERTH_REGISTRY, and another, at $OTHER.
//
//	exits CODE COMMAND...            runs a command that must end with an exit code
//	seed image|index|artifact NAME   pushes one to the default registry; NAME:TAG
//	                                 of an artifact says what it refers to
func TestClientCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, v := range []string{"BERTH_REGISTRY", "OTHER"} {
				host, r, err := startRegistry(env)
				if err != nil {
					return err
				}
				env.Setenv(v, host)
				env.Values[v] = r
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"seed": seedCmd, "exits": exitsCmd},
	})
}

func startRegistry(env *testscript.Env) (string, registry.Registry, error) {
	l, err := registry.NewLocal(context.Background(), mem.NewBlobs(), mem.NewMeta(), registry.Options{})
	if err != nil {
		return "", nil, err
	}
	server := httptest.NewServer(registry.NewServer(l, registry.ServerOptions{}))
	env.Defer(func() {
		server.Close()
		l.Close()
	})
	return strings.TrimPrefix(server.URL, "http://"), l, nil
}

func exitsCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = failed.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func seedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: seed KIND REPOSITORY:TAG")
	}
	s := &seeder{ts: ts, r: ts.Value("BERTH_REGISTRY").(registry.Registry)}
	var tag string
	s.repo, tag, _ = strings.Cut(args[1], ":")
	switch args[0] {
	case "image":
		s.image("amd64", nil, tag)
	case "index":
		amd, arm := s.image("amd64", nil), s.image("arm64", nil)
		amd.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
		arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
		s.manifest(ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
			Manifests:   []registry.Descriptor{amd, arm},
			Annotations: map[string]string{"org.example.colour": "blue"},
		}, ocispec.MediaTypeImageIndex, tag)
	case "artifact":
		subject, err := s.r.StatManifest(context.Background(), s.repo, registry.Reference{Tag: tag})
		ts.Check(err)
		s.image("signature", &subject)
	default:
		ts.Fatalf("seed: unknown kind %s", args[0])
	}
}

// seeder pushes content that is the same in each run.
type seeder struct {
	ts   *testscript.TestScript
	r    registry.Registry
	repo string
}

func (s *seeder) blob(data, mediaType string) registry.Descriptor {
	d, err := s.r.PushBlob(context.Background(), s.repo, digest.FromString(data), strings.NewReader(data))
	s.ts.Check(err)
	d.MediaType = mediaType
	return d
}

func (s *seeder) image(arch string, subject *registry.Descriptor, tags ...string) registry.Descriptor {
	config := fmt.Sprintf(`{"architecture":%q,"os":"linux","created":"2024-02-03T04:05:06Z"}`, arch)
	return s.manifest(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: s.blob(config, ocispec.MediaTypeImageConfig),
		Layers: []registry.Descriptor{
			s.blob(strings.Repeat("base", 1000), ocispec.MediaTypeImageLayerGzip),
			s.blob("program for "+arch, ocispec.MediaTypeImageLayerGzip),
		},
		Annotations: map[string]string{"org.example.arch": arch},
	}, ocispec.MediaTypeImageManifest, tags...)
}

func (s *seeder) manifest(v any, mediaType string, tags ...string) registry.Descriptor {
	data, err := json.Marshal(v)
	s.ts.Check(err)
	p, err := s.r.PushManifest(context.Background(), s.repo, registry.ManifestPush{
		Data: bytes.Clone(data), MediaType: mediaType, Digest: digest.FromBytes(data), Tags: tags,
	})
	s.ts.Check(err)
	return p.Descriptor
}

func TestParseName(t *testing.T) {
	const host = "localhost:5000"
	d := digest.FromString("")
	for _, tt := range []struct {
		in   string
		want name // empty: an error
	}{
		{"mongo", name{Host: host, Repo: "mongo"}},
		{"mongo:7", name{Host: host, Repo: "mongo", Tag: "7"}},
		{"team/mongo:7", name{Host: host, Repo: "team/mongo", Tag: "7"}},
		{"localhost/mongo", name{Host: "localhost", Repo: "mongo"}},
		{"example.org/a/b:c", name{Host: "example.org", Repo: "a/b", Tag: "c"}},
		{"[::1]:5000/a", name{Host: "[::1]:5000", Repo: "a"}},
		{"host:1/a@" + string(d), name{Host: "host:1", Repo: "a", Digest: d}},
		{"a:b@" + string(d), name{Host: host, Repo: "a", Tag: "b", Digest: d}},
		{"docker.io/mongo", name{Host: "docker.io", Repo: "library/mongo"}},
		{"docker.io/team/app:1", name{Host: "docker.io", Repo: "team/app", Tag: "1"}},
		{in: ""},
		{in: "Mongo"},
		{in: "a:"},
		{in: "a:b:c"},
		{in: "a@"},
		{in: "a@sha256:1"},
		{in: "a@b"},
		{in: "../a"},
		{in: "example.org/"},
		{in: "example.org//a"},
		{in: "https://example.org/a"},
		{in: "a b"},
	} {
		got, err := parseName(tt.in, host)
		if err == nil != (tt.want != name{}) || err == nil && got != tt.want {
			t.Errorf("parseName(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 1 << 62: "4.6 EB"} {
		if got := humanSize(n); got != want {
			t.Errorf("humanSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:1": true, "127.8.9.10": true, "[::1]:5000": true,
		"example.org": false, "10.0.0.1:5000": false, "localhost.example.org": false, "": false,
	} {
		if isLoopback(host) != want {
			t.Errorf("isLoopback(%q) is %v", host, !want)
		}
	}
}
