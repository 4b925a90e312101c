package config

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
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
	if err != nil || c != Default() {
		t.Errorf("Load of the example = %+v, %v, want the defaults", c, err)
	}
	for _, k := range keys {
		if !strings.Contains(string(file), "\n  "+k.Name()+": ") {
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
	other := map[string]string{
		"log.level": "error", "log.format": "text", "log.access": "false", "metrics.addr": "other:1", "http.addr": "other:2", "storage.data": "other",
	}
	for _, k := range keys {
		text, ok := other[k.Path]
		if !ok {
			text = "7h"
		}
		c, err := Load("", nil, Setting{Key: k.Path, Value: text})
		if err != nil {
			t.Errorf("%s cannot be set to %s: %v", k.Path, text, err)
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
	if want := []string{"log.access", "storage.upload_expiry"}; !slices.Equal(changed, want) {
		t.Errorf("can be reloaded: %q, want %q", changed, want)
	}
	if len(needRestart) != 8 || slices.Contains(needRestart, "log.level") {
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
	if c != before {
		t.Error("Validate changes the configuration")
	}
}
