package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/deploy"
)

// TestImageCredentials has the credentials of docker login be found for the registries
// of a stack's images, by the names that images have, and for no others: of a
// configuration, and of a helper.
func TestImageCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s := deploy.Stack{Services: []deploy.Service{
		{Image: "localhost:5000/web:1"},
		{Image: "localhost:5000/other"},
		{Image: "nginx"},
		{Image: "helped.example.com/x@sha256:0123456789012345678901234567890123456789012345678901234567890123"},
		{Image: "open.example.com/x"},
		{Image: "No Image"},
	}}
	none, err := imageCredentials(t.Context(), s)
	if err != nil || len(none) > 0 {
		t.Errorf("without a configuration there are %v, %v", none, err)
	}
	files := map[string]string{
		"config.json": `{"auths": {
			"localhost:5000": {"auth": "YWxpY2U6c2VjcmV0"},
			"https://index.docker.io/v1/": {"auth": "Ym9iOmh1Yg=="},
			"unused.example.com": {"auth": "eDp5"}
		}, "credHelpers": {"helped.example.com": "test"}}`,
		"docker-credential-test": "#!/bin/sh\necho '{\"ServerURL\": \"helped.example.com\", \"Username\": \"<token>\", \"Secret\": \"identity\"}'\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	got, err := imageCredentials(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]registry.AuthConfig{
		"localhost:5000":     {Username: "alice", Password: "secret", ServerAddress: "localhost:5000"},
		"docker.io":          {Username: "bob", Password: "hub", ServerAddress: "https://index.docker.io/v1/"},
		"helped.example.com": {IdentityToken: "identity", ServerAddress: "helped.example.com"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := imageCredentials(t.Context(), s); err == nil {
		t.Error("a broken configuration is taken for none")
	}
}
