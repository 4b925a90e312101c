package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
)

// TestLogins has each registry of a stack's images get its own password, as it is now,
// and nobody else's.
func TestLogins(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := runnerconfig.Config{Registries: map[string]*runnerconfig.Host{
		"docker.io": {Username: "hub", PasswordFile: file}, "a.example.com:5000": {Username: "a", PasswordFile: file}, "b.example.com": {},
	}}
	s := deploy.Stack{Services: []deploy.Service{
		{Image: "nginx"}, {Image: "a.example.com:5000/web:1"}, {Image: "a.example.com:5000/db"}, {Image: "b.example.com/x"}, {Image: "c.example.com/x"}, {Image: "?"},
	}}
	write("first\n")
	login := logins(cfg)
	for _, password := range []string{"first", "second"} {
		write(password)
		got, err := credentialsOf(s, login)
		want := map[string]registry.AuthConfig{
			"docker.io": {Username: "hub", Password: password}, "a.example.com:5000": {Username: "a", Password: password},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
	write("")
	if _, err := credentialsOf(s, login); !errors.Is(err, runner.ErrUnauthorized) {
		t.Errorf("a password that cannot be read: %v", err)
	}
}
