package config

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write config.example.yaml anew")

const examplePath = "../../config.example.yaml"

func TestExample(t *testing.T) {
	if *rewrite {
		if err := os.WriteFile(examplePath, Example(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, Example()) {
		t.Error("config.example.yaml is not what Example returns; go test ./internal/config -rewrite writes it")
	}
	c, err := Load(examplePath, nil)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("Load of the example = %+v, %v, want the defaults", c, err)
	}
	for _, k := range keys {
		if !strings.Contains(string(file), " "+k.Name()+":") && !strings.Contains(string(file), "\n"+k.Name()+":") {
			t.Errorf("the example does not set %s", k.Path)
		}
	}
	for i, line := range strings.Split(string(file), "\n") {
		if len(line) > 100 {
			t.Errorf("line %d of the example is %d characters long", i+1, len(line))
		}
	}
}

func TestKeys(t *testing.T) {
	if err := schema.Check(); err != nil {
		t.Error(err)
	}
	if k, _ := schema.Lookup("http.header_timeout"); schema.Variable(k) != "BERTH_HTTP_HEADER_TIMEOUT" {
		t.Errorf("variable of http.header_timeout is %s", schema.Variable(k))
	}
}

// TestFields checks that each key has a field of its own.
func TestFields(t *testing.T) {
	bare := schema
	bare.Conflicts = nil // one key by itself may make no sense
	texts := []string{"7h", "17", "7m", "error", "text", "true", "false", "other:2", "https://other", "ldaps://other", "10.0.0.1", "basic", "cn", "ou", "**:v*", "other", "AES256"}
	for _, k := range keys {
		if k.Value == nil {
			continue
		}
		set := func(text string) (Config, error) { return bare.Load("", nil, Setting{Key: k.Path, Value: text}) }
		c := Default()
		for _, text := range texts {
			if other, err := set(text); err == nil && !reflect.DeepEqual(other, Default()) {
				c = other
				break
			}
		}
		changed, needRestart := Reloadable(Default(), c)
		if got := append(changed, needRestart...); !slices.Equal(got, []string{k.Path}) {
			t.Errorf("setting %s changes %q", k.Path, got)
		}
	}
}

func TestReloadable(t *testing.T) {
	changed, needRestart := Reloadable(Default(), Default())
	if len(changed)+len(needRestart) > 0 {
		t.Errorf("the same configuration twice differs in %q, %q", changed, needRestart)
	}
	c := Config{}
	changed, needRestart = Reloadable(Default(), c)
	if want := []string{"log.access", "storage.upload_expiry", "gc.grace", "gc.lease", "gc.untagged", "gc.history", "gc.interval", "scrub.interval", "scrub.rate", "limits.burst"}; !slices.Equal(changed, want) {
		t.Errorf("can be reloaded: %q, want %q", changed, want)
	}
	if !slices.Contains(needRestart, "http.addr") || !slices.Contains(needRestart, "auth.tokens.ttl") || slices.Contains(needRestart, "log.level") {
		t.Errorf("needs a restart: %q", needRestart)
	}
	c = Default()
	c.Log.Level = slog.LevelDebug
	if changed, needRestart = Reloadable(Default(), c); !slices.Equal(changed, []string{"log.level"}) || needRestart != nil {
		t.Errorf("after a change of the level: %q, %q", changed, needRestart)
	}
}

func TestValidate(t *testing.T) {
	checkError(t, Default().Validate(), "")
	c := Default()
	c.HTTP.BodyTimeout = -time.Second
	c.Log.Level = slog.LevelInfo + 3
	c.Log.Format = "xml"
	c.Storage.Data = " "
	c.Metrics.Addr = c.HTTP.Addr
	before := c
	checkError(t, c.Validate(), lines(
		`http.body_timeout: expected a duration such as 30s, 5m or 24h, found "-1s"`,
		`log.level: expected one of debug, info, warn, error, found "INFO+3"`,
		`log.format: expected one of auto, text, json, found "xml"`,
		`storage.data: expected the path of a directory, found " "`,
		`metrics.addr: expected two addresses that differ, found "localhost:5000" for metrics.addr and "localhost:5000" for http.addr`))
	if !reflect.DeepEqual(c, before) {
		t.Error("Validate changes the configuration")
	}
}
