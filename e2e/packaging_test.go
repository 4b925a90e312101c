package e2e

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// composeProject is packaging/compose.yaml as Compose itself reads it: by its schema,
// with its variables, its anchors and its defaults.
func composeProject(t *testing.T, environment types.Mapping) *types.Project {
	t.Helper()
	dir := filepath.Join(berthtest.ModuleRoot(t), "packaging")
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: dir, Environment: environment,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}},
	}, func(o *loader.Options) { o.SetProjectName("berth", false) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCompose looks at what the Compose file says of each service.
func TestCompose(t *testing.T) {
	t.Parallel()
	p := composeProject(t, nil)
	want := []string{"berth-1", "berth-2", "berth-3", "lb", "postgres", "s3", "secrets"}
	if names := slices.Sorted(maps.Keys(p.Services)); !slices.Equal(names, want) {
		t.Errorf("the services are %q, want %q", names, want)
	}
	pinned := regexp.MustCompile(`:v?[0-9]+\.[0-9]+\.?[0-9]*(-[a-z]+)?$`)
	for name, s := range p.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		if s.Build != nil && !exists(filepath.Join(s.Build.Context, s.Build.Dockerfile)) {
			t.Errorf("%s: there is no %s in %s", name, s.Build.Dockerfile, s.Build.Context)
		}
		if len(s.Ports) > 0 && (name != "lb" || s.Ports[0].HostIP != "127.0.0.1" || s.Ports[0].Published != "5000") {
			t.Errorf("%s publishes %+v", name, s.Ports)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
			t.Errorf("%s may get more privileges", name)
		}
		if once := name == "secrets"; once != (s.HealthCheck == nil) || once != (s.Restart == "no") {
			t.Errorf("%s: the health check is %v, the restart policy %q", name, s.HealthCheck, s.Restart)
		}
		for key, value := range s.Environment {
			if value != nil && regexp.MustCompile(`(?i)password|secret|dsn`).MatchString(key) && !strings.HasPrefix(*value, "/run/secrets/") {
				t.Errorf("%s: %s is no file of a secret", name, key)
			}
		}
		for _, v := range s.Volumes {
			if v.Target == "/run/secrets" && !v.ReadOnly && name != "secrets" {
				t.Errorf("%s can write to the secrets", name)
			}
		}
	}
	for name, c := range p.Configs {
		if !slices.ContainsFunc(slices.Collect(maps.Values(p.Services)), func(s types.ServiceConfig) bool {
			return slices.ContainsFunc(s.Configs, func(of types.ServiceConfigObjConfig) bool { return of.Source == name })
		}) || c.Content == "" {
			t.Errorf("nobody reads %s", name)
		}
	}
}

// TestComposeVariables sets what can be set from outside.
func TestComposeVariables(t *testing.T) {
	t.Parallel()
	p := composeProject(t, types.Mapping{"BERTH_LISTEN": "192.0.2.1", "BERTH_PORT": "443", "BERTH_VERSION": "1.2"})
	lb, berth := p.Services["lb"], p.Services["berth-3"]
	if port := lb.Ports[0]; port.HostIP != "192.0.2.1" || port.Published != "443" || port.Target != 5000 {
		t.Errorf("published is %+v", port)
	}
	if berth.Image != "berth:1.2" || *berth.Build.Args["VERSION"] != "1.2" {
		t.Errorf("the image is %s, built with %v", berth.Image, berth.Build.Args)
	}
}
