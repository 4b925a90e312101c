package e2e

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// manifests decodes the objects of a stream.
func manifests(t *testing.T, text string) (objects []map[string]any) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
}

func kindsOf(objects []map[string]any) (kinds []string) {
	for _, o := range objects {
		kinds = append(kinds, o["kind"].(string))
	}
	slices.Sort(kinds)
	return kinds
}

// fact is the value at a path into the first object of a kind, or nothing. A text that
// is a file of YAML is gone into, too.
func fact(t *testing.T, objects []map[string]any, path string) string {
	t.Helper()
	path = strings.ReplaceAll(path, `\.`, "\x00")
	kind, path, _ := strings.Cut(path, ".")
	i := slices.IndexFunc(objects, func(o map[string]any) bool { return o["kind"] == kind })
	if i < 0 {
		t.Errorf("there is no %s", kind)
		return ""
	}
	var at any = objects[i]
	for step := range strings.SplitSeq(path, ".") {
		if text, ok := at.(string); ok {
			at = nil
			if err := yaml.Unmarshal([]byte(text), &at); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		switch v := at.(type) {
		case map[string]any:
			at = v[strings.ReplaceAll(step, "\x00", ".")]
		case []any:
			var n int
			if _, err := fmt.Sscan(step, &n); err != nil || n >= len(v) {
				return ""
			}
			at = v[n]
		default:
			return ""
		}
	}
	if at == nil {
		return ""
	}
	return fmt.Sprint(at)
}

// checkChartConfig has berth check the configuration that the chart has made, with the
// environment of its pod.
func checkChartConfig(t *testing.T, objects []map[string]any) {
	t.Helper()
	text := ""
	if i := slices.IndexFunc(objects, func(o map[string]any) bool { return o["kind"] == "Secret" }); i >= 0 {
		text = fact(t, objects[i:], "Secret.stringData.berth\\.yaml")
	}
	if text == "" {
		return // it is not the chart's
	}
	if strings.Contains(text, "secret\"") || strings.Contains(text, "dsn-secret") {
		t.Errorf("the configuration has a secret in it:\n%s", text)
	}
	berth := berthtest.NewCommand(t, "env")
	if strings.Contains(text, "secret_key_file") {
		berth.Env("BERTH_STORAGE_S3_ACCESS_KEY=key")
	}
	berth.Run(berthtest.Binary(t, "berth"), "config", "check", writeFile(t, t.TempDir(), "berth.yaml", []byte(text)))
}
