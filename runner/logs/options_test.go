package logs_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

func TestParseOptions(t *testing.T) {
	type config = map[string]string
	for _, test := range []struct {
		driver string
		config config
		want   logs.Options
		fails  string
	}{
		{"", nil, logs.Options{Driver: "json-file", MaxSize: 10_000_000, MaxFile: 3}, ""},
		{"json-file", config{"max-size": "100k", "max-file": "3"}, logs.Options{Driver: "json-file", MaxSize: 100_000, MaxFile: 3}, ""},
		{"json-file", config{"max-size": "10m"}, logs.Options{Driver: "json-file", MaxSize: 10_000_000, MaxFile: 1}, ""},
		{"json-file", config{"max-file": "7"}, logs.Options{Driver: "json-file", MaxSize: 10_000_000, MaxFile: 7}, ""},
		{"json-file", config{"max-size": "-1", "mode": "blocking", "compress": "false"}, logs.Options{Driver: "json-file", MaxSize: -1, MaxFile: 1}, ""},
		{"local", config{"max-size": "1m"}, logs.Options{Driver: "local", MaxSize: 1 << 20, MaxFile: 5}, ""},
		{"none", config{"max-size": "1m"}, logs.Options{Driver: "none", MaxSize: -1}, ""},
		{"json-file", config{"tag": "{{ .Name }}"}, logs.Options{Driver: "json-file", MaxSize: 10_000_000, MaxFile: 3, Tag: "{{ .Name }}"}, ""},
		{"gelf", nil, logs.Options{}, "logger: no log driver named 'gelf' is registered"},
		{"json-file", config{"mode": "non-blocking", "max-buffer-size": "4m", "compress": "true"}, logs.Options{Driver: "json-file", MaxSize: 10_000_000, MaxFile: 3}, ""},
		{"syslog", nil, logs.Options{Driver: "syslog", MaxSize: 20 << 20, MaxFile: 5, Tag: "{{.ID}}"}, ""},
		{"journald", config{"tag": "", "cache-max-size": "1m", "cache-max-file": "2"}, logs.Options{Driver: "journald", MaxSize: 1 << 20, MaxFile: 2, Tag: "{{.ID}}"}, ""},
		{"fluentd", config{"cache-disabled": "true", "tag": "x"}, logs.Options{Driver: "fluentd", MaxSize: 1 << 20, MaxFile: 2, Tag: "x"}, ""},
		{"syslog", config{"max-size": "1m"}, logs.Options{}, "unknown log opt 'max-size' for syslog log driver"},
		{"journald", config{"syslog-address": ""}, logs.Options{}, "unknown log opt 'syslog-address' for journald log driver"},
		{"fluentd", config{"fluentd-async-connect": "true"}, logs.Options{}, "unknown log opt 'fluentd-async-connect' for fluentd log driver"},
		{"json-file", config{"compress": "true", "max-file": "1"}, logs.Options{}, "compress cannot be true when max-file is less than 2 or max-size is not set"},
		{"json-file", config{"max-buffer-size": "1m"}, logs.Options{}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", config{"cache-disabled": "true"}, logs.Options{}, "unknown log opt 'cache-disabled' for json-file log driver"},
		{"json-file", config{"colour": "red"}, logs.Options{}, "unknown log opt 'colour' for json-file log driver"},
		{"local", config{"labels": "a"}, logs.Options{}, "unknown log opt 'labels' for log driver local"},
		{"json-file", config{"max-size": "much"}, logs.Options{}, "invalid size: 'much'"},
		{"json-file", config{"max-size": "0"}, logs.Options{}, "max-size must be a positive number"},
		{"json-file", config{"max-file": "0"}, logs.Options{}, "max-file cannot be less than 1"},
		{"json-file", config{"mode": "often"}, logs.Options{}, "logger: logging mode not supported: often"},
		{"json-file", config{"tag": "{{range .}}"}, logs.Options{}, "invalid tag: {{range .}}: only fields of the container are supported, such as {{.Name}}"},
	} {
		got, err := logs.ParseOptions(container.LogConfig{Type: test.driver, Config: test.config}, logs.Options{})
		if test.fails != "" {
			if err == nil || err.Error() != test.fails || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%s %v: %v", test.driver, test.config, err)
			}
			continue
		}
		if err != nil || got.Driver != test.want.Driver || got.MaxSize != test.want.MaxSize || got.MaxFile != test.want.MaxFile || got.Tag != test.want.Tag {
			t.Errorf("%s %v: %+v, %v", test.driver, test.config, got, err)
		}
	}
	own, err := logs.ParseOptions(container.LogConfig{}, logs.Options{Driver: "local", MaxSize: 5, MaxFile: 6})
	if err != nil || own.Driver != "local" || own.MaxSize != 5 || own.MaxFile != 6 {
		t.Errorf("own defaults: %+v, %v", own, err)
	}
}

func TestReadable(t *testing.T) {
	err := logs.Options{Driver: "none"}.Readable()
	if !errors.Is(err, runner.ErrNotImplemented) || err.Error() != "configured logging driver does not support reading" {
		t.Error(err)
	}
	if err := (logs.Options{Driver: "json-file"}).Readable(); err != nil {
		t.Error(err)
	}
}

func TestAttributes(t *testing.T) {
	o, err := logs.ParseOptions(container.LogConfig{Config: map[string]string{
		"labels": "a,b", "labels-regex": "^x", "env": "HOME", "env-regex": "^LC_", "tag": "{{.ImageName}}/{{.ID}}",
	}}, logs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := o.Attributes(logs.Container{
		ID: "0123456789abcdef", ImageName: "web:v1",
		Labels: map[string]string{"a": "1", "c": "2", "xyz": "3"},
		Env:    []string{"HOME=/root", "LC_ALL=C", "PATH=/bin", "BARE"},
	})
	want := map[string]string{"a": "1", "xyz": "3", "HOME": "/root", "LC_ALL": "C", "tag": "web:v1/0123456789ab"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
