package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestHelm(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{})
	dir, home := t.TempDir(), t.TempDir()
	helm := berthtest.NewCommand(t, "helm").Dir(dir).Env(
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "DOCKER_CONFIG="+home)
	writeFile(t, dir, "app/Chart.yaml", []byte("apiVersion: v2\nname: app\ndescription: A chart\nversion: 1.2.3+build.4\n"))
	writeFile(t, dir, "app/values.yaml", []byte("greeting: hello\n"))
	writeFile(t, dir, "app/templates/map.yaml", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {greeting: {{ .Values.greeting }}}\n"))
	helm.Run("package", "app")

	const chart = "app-1.2.3+build.4.tgz"
	helm.Run("push", "--plain-http", chart, "oci://"+s.Addr+"/charts")
	back := t.TempDir()
	helm.Run("pull", "--plain-http", "oci://"+s.Addr+"/charts/app", "--version", "1.2.3+build.4", "-d", back)
	sameFile(t, filepath.Join(dir, chart), filepath.Join(back, chart))
	// Without a version helm lists the tags to find the newest.
	if got := helm.Run("template", "--plain-http", "oci://"+s.Addr+"/charts/app"); !strings.Contains(got, "greeting: hello") {
		t.Errorf("the chart from the registry renders as %s", got)
	}
}
