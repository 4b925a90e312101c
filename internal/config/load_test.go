package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// load loads the text of a file that is called berth.yaml.
func load(text string) (Config, error) {
	return schema.Parse("berth.yaml", []byte(text))
}

func lines(s ...string) string { return strings.Join(s, "\n") }

// checkError checks an error's text; "" stands for no error.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("error is\n%s\nwant\n%s", got, want)
	}
}

func TestFile(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "comments": "# nothing\n# at all\n", "null": "~", "braces": "{}", "marker": "---\n",
		"sections without keys": "http:\n  # addr: x\nlog: {}\nmetrics: ~\n",
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := load(text); err != nil || !reflect.DeepEqual(c, Default()) {
				t.Errorf("load = %+v, %v, want the defaults", c, err)
			}
		})
	}
	want := Default()
	want.HTTP = HTTP{Addr: "[::1]:80", HeaderTimeout: time.Second, BodyTimeout: 1500 * time.Millisecond, IdleTimeout: time.Hour}
	want.Metrics = Metrics{""}
	want.Log = Log{slog.LevelDebug, LogJSON, false}
	want.Storage.Data, want.Storage.UploadExpiry = "/var/lib/berth data", 90*time.Minute
	got, err := load(lines(
		`http: {addr: "[::1]:80", header_timeout: 1s, body_timeout: 1.5s, idle_timeout: "1h", shutdown_timeout: 0s}`,
		`metrics:`,
		`  addr: ""`,
		`log:`,
		`  level: debug`,
		`  format: &anchor json`,
		`  access: false`,
		`storage:`,
		`  data: /var/lib/berth data`,
		`  upload_expiry: 1h30m`,
	))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("load = %+v, %v, want %+v", got, err, want)
	}
}

func TestFileErrors(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"unknown key", "http:\n  addr: :80\n  adr: :81\n", `berth.yaml:3: http.adr: unknown key (did you mean http.addr?)`},
		{"unknown section", "logs:\n  level: info\n", `berth.yaml:1: logs: unknown key (did you mean log?)`},
		{"section forgotten", "\nlevel: info\n", `berth.yaml:2: level: unknown key (did you mean log.level?)`},
		{"nothing like it", "metrics:\n  path: /m\n", `berth.yaml:2: metrics.path: unknown key (expected one of addr)`},
		{"no section like it", "tls: {}", `berth.yaml:1: tls: unknown key (expected one of http, metrics, log, storage, gc, scrub, retention, quota, mirrors, sync, replication, auth, policy, immutable, limits, audit, webhooks)`},
		{"path as key", "http.addr: x", `berth.yaml:1: http.addr: unknown key (write addr below http)`},
		{"odd keys", "? 'a\nb'\n: 1\n'': 2\n", lines(
			`berth.yaml:1: "a b": unknown key (expected one of http, metrics, log, storage, gc, scrub, retention, quota, mirrors, sync, replication, auth, policy, immutable, limits, audit, webhooks)`,
			`berth.yaml:4: "": unknown key (expected one of http, metrics, log, storage, gc, scrub, retention, quota, mirrors, sync, replication, auth, policy, immutable, limits, audit, webhooks)`)},
		{"list as key", "? [a]\n: b\n", `berth.yaml:1: expected a key, found a list`},
		{"merge", "log:\n  <<: {level: info}\n", `berth.yaml:2: "log.<<": unknown key (expected one of level, format, access)`},
		{
			"key twice", "log:\n  level: info\n  access: true\n  level: warn\n",
			`berth.yaml:4: log.level: expected once, found again after line 2`,
		},
		{"section twice", "log: {}\nhttp: {}\nlog:\n  level: info\n", `berth.yaml:3: log: expected once, found again after line 1`},
		{"list as file", "- a\n", `berth.yaml:1: expected a mapping with the keys http, metrics, log, storage, gc, scrub, retention, quota, mirrors, sync, replication, auth, policy, immutable, limits, audit, webhooks, found a list`},
		{"text as file", "hello\n", `berth.yaml:1: expected a mapping with the keys http, metrics, log, storage, gc, scrub, retention, quota, mirrors, sync, replication, auth, policy, immutable, limits, audit, webhooks, found the text "hello"`},
		{
			"text as section", "log: debug\n",
			`berth.yaml:1: log: expected a mapping with the keys level, format, access, found the text "debug"`,
		},
		{"two documents", "log: {}\n---\nlog: {}\n", `berth.yaml:2: expected one YAML document, found another`},
		{
			"alias", "log: &l {level: info}\nhttp: *l\n",
			`berth.yaml:2: http: expected a mapping with the keys addr, header_timeout, body_timeout, idle_timeout, shutdown_timeout, ` +
				`public_url, redirect_addr, trusted_proxies, proxy_protocol, tls, ` +
				`found an alias, which is not supported here`,
		},
		{
			"alias as value", "http: {addr: &a ':80'}\nmetrics:\n  addr: *a\n",
			`berth.yaml:3: metrics.addr: expected host:port such as localhost:5000, or "", found an alias, which is not supported here`,
		},
		{"number as address", "http: {addr: 5000}", `berth.yaml:1: http.addr: expected host:port such as localhost:5000, found the number 5000`},
		{
			"number as duration", "http:\n  idle_timeout: 10\n",
			`berth.yaml:2: http.idle_timeout: expected a duration such as 30s, 5m or 24h, found the number 10`,
		},
		{"text as truth value", "log: {access: 'true'}", `berth.yaml:1: log.access: expected true or false, found the text "true"`},
		{"yes", "log: {access: yes}", `berth.yaml:1: log.access: expected true or false, found the text "yes"`},
		{
			"truth value as text", "log: {level: true}",
			`berth.yaml:1: log.level: expected one of debug, info, warn, error, found the truth value true`,
		},
		{"nothing", "storage:\n  data:\n", `berth.yaml:2: storage.data: expected the path of a directory, found nothing`},
		{"mapping", "storage: {data: {dir: x}}", `berth.yaml:1: storage.data: expected the path of a directory, found a mapping`},
		{"tag", "storage: {data: !dir x}", `berth.yaml:1: storage.data: expected the path of a directory, found a value of type "!dir"`},
		{"impossible", "storage:\n  data: ''\n  upload_expiry: 0s\nlog:\n  level: verbose\n", lines(
			`berth.yaml:2: storage.data: expected the path of a directory, found ""`,
			`berth.yaml:3: storage.upload_expiry: expected a duration such as 30s, 5m or 24h, found "0s"`,
			`berth.yaml:5: log.level: expected one of debug, info, warn, error, found "verbose"`)},
		{
			"same address", "\nhttp: {addr: localhost:5001}",
			`berth.yaml:2: http.addr: expected two addresses that differ, found "localhost:5001" for metrics.addr and "localhost:5001" for http.addr`,
		},
		{
			"long value", "storage: {data: \"" + strings.Repeat("\\0", 100) + "\"}",
			`berth.yaml:1: storage.data: expected the path of a directory, found "` + strings.Repeat(`\x00`, 80) + `"...`,
		},
		{"tab", "http:\n\taddr: x\n", `berth.yaml:2: not valid YAML: found character that cannot start any token`},
		{"no space", "log:\n  level: info\n  access:true\n", `berth.yaml:3: not valid YAML: could not find expected ':'`},
		{"colon", "log:\n  level: a: b\n", `berth.yaml:2: not valid YAML: mapping values are not allowed in this context`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(c.file)
			checkError(t, err, c.want)
		})
	}
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name    string
		environ []string
		set     func(*Config)
		want    string
	}{
		{name: "none of ours", environ: []string{"HOME=/root", "BERTH_REGISTRY=example.com", "BERTH_PORT=1", "BERTH=", "=C:", "odd", ""}},
		{name: "of Kubernetes", environ: []string{
			"BERTH_METRICS_SERVICE_HOST=10.0.0.1", "BERTH_METRICS_SERVICE_PORT=1", "BERTH_METRICS_SERVICE_PORT_HTTP=1",
			"BERTH_METRICS_PORT=tcp://10.0.0.1:1", "BERTH_METRICS_PORT_5001_TCP=x", "BERTH_METRICS_PORT_5001_TCP_ADDR=x",
		}},
		{name: "values", environ: []string{
			"BERTH_HTTP_ADDR=:80", "BERTH_METRICS_ADDR=", "BERTH_LOG_ACCESS=0", "BERTH_STORAGE_UPLOAD_EXPIRY=1h", "BERTH_STORAGE_DATA=a=b",
		}, set: func(c *Config) {
			c.HTTP.Addr, c.Metrics.Addr, c.Log.Access = ":80", "", false
			c.Storage.UploadExpiry, c.Storage.Data = time.Hour, "a=b"
		}},
		{name: "twice", environ: []string{"BERTH_HTTP_ADDR=:80", "BERTH_HTTP_ADDR=:81"}, set: func(c *Config) { c.HTTP.Addr = ":80" }},
		{name: "problems", environ: []string{"BERTH_LOG_NONSENSE=1", "BERTH_HTTP_ADR=x", "BERTH_LOG_ACCESS=maybe", "BERTH_HTTP_ADDR="}, want: lines(
			`environment BERTH_HTTP_ADDR: expected host:port such as localhost:5000, found ""`,
			`environment BERTH_LOG_ACCESS: expected true or false, found "maybe"`,
			`environment BERTH_HTTP_ADR: unknown key (did you mean BERTH_HTTP_ADDR?)`,
			`environment BERTH_LOG_NONSENSE: unknown key (expected one of BERTH_LOG_LEVEL, BERTH_LOG_FORMAT, BERTH_LOG_ACCESS)`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load("", c.environ)
			checkError(t, err, c.want)
			want := Default()
			if c.set != nil {
				c.set(&want)
			}
			if err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("Load = %+v, want %+v", got, want)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.yaml")
	write(t, path, "http: {addr: 'file:1', idle_timeout: 1s}\nlog: {level: warn}\nstorage: {data: file}\n")
	environ := []string{"BERTH_HTTP_ADDR=environment:1", "BERTH_STORAGE_DATA=environment"}
	want := Default()
	want.HTTP.Addr, want.HTTP.IdleTimeout, want.Log.Level, want.Storage.Data = "flag:1", time.Second, slog.LevelWarn, "environment"
	got, err := Load(path, environ, Setting{Key: "http.addr", Value: "flag:1", Source: "flag --addr"})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Load = %+v, %v, want %+v", got, err, want)
	}
}

// TestEverySource checks that what is wrong is told of all sources at once, even
// of a value that another source replaces.
func TestEverySource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.yaml")
	write(t, path, "http: {addr: x}\n")
	_, err := Load(path, []string{"BERTH_HTTP_ADDR=y"},
		Setting{Key: "http.addr", Value: "z", Source: "flag --addr"}, Setting{Key: "http.adr", Value: ":1", Source: "flag --adr"}, Setting{Key: "http.addr", Value: ":80", Source: "flag --addr"})
	checkError(t, err, lines(
		path+`:1: http.addr: expected host:port such as localhost:5000, found "x"`,
		`environment BERTH_HTTP_ADDR: expected host:port such as localhost:5000, found "y"`,
		`flag --addr: expected host:port such as localhost:5000, found "z"`,
		`flag --adr: http.adr: unknown key (did you mean http.addr?)`))
	var p *Problem
	if !errors.As(err, &p) || p.Key != "http.addr" || p.Source != path+":1" {
		t.Errorf("first problem is %+v", p)
	}
}

func TestConflictOfSources(t *testing.T) {
	_, err := Load("", []string{"BERTH_METRICS_ADDR=:80"}, Setting{Key: "http.addr", Value: "localhost:80", Source: "flag --addr"})
	checkError(t, err,
		`environment BERTH_METRICS_ADDR: metrics.addr: expected two addresses that differ, found ":80" for metrics.addr and "localhost:80" for http.addr`)
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yaml"), nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("missing file: error %v", err)
	}
	if _, err := Load(dir, nil); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("directory: error %v", err)
	}
	path := filepath.Join(dir, "large.yaml")
	write(t, path, strings.Repeat("#", settings.MaxFile+1))
	_, err := Load(path, nil)
	checkError(t, err, path+": expected at most 1048576 bytes, found more")
	write(t, path, strings.Repeat("#", settings.MaxFile))
	_, err = Load(path, nil)
	checkError(t, err, "")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestManyProblems(t *testing.T) {
	_, err := load(strings.Repeat("a: 1\n", 1000))
	all := strings.Split(err.Error(), "\n")
	if last := all[len(all)-1]; len(all) != 101 || last != "berth.yaml:101: too many problems; what follows is not checked" {
		t.Errorf("%d problems, the last is %s", len(all), last)
	}
}

// TestHostileFile checks that no file takes long, or anything like the square of
// its size.
func TestHostileFile(t *testing.T) {
	const size = settings.MaxFile / 4
	for name, unit := range map[string]string{
		"lists": "[", "mappings": "{", "mappings of mappings": "{a: ", "entries": "- ", "keys": "? ", "unknown keys": "a: 1\n",
		"anchors": "- &a [*a]\n", "comments": "#\n", "quotes": `"`, "tags": "!", "documents": "---\n", "colons": ":", "aliases": "*a ",
		"same key": "http:\n", "tabs": "\t", "zeros": "\x00", "line feeds": "\n", "blocks": "|\n", "indents": "  a:\n",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, _ = load(strings.Repeat(unit, size/len(unit)))
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("takes %v", d)
			}
		})
	}
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	if _, err := load(b.String()); err == nil {
		t.Error("mappings within mappings: no error")
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [*" + strings.Repeat(p+",*", 8) + p + "]\n"
	}
	if _, err := load(bomb); err == nil {
		t.Error("alias bomb: no error")
	}
}
