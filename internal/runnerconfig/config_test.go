package runnerconfig

import (
	"bytes"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

var rewrite = flag.Bool("rewrite", false, "write runner.example.yaml anew")

const examplePath = "../../runner.example.yaml"

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
		t.Error("runner.example.yaml is not what Example returns; go test ./internal/runnerconfig -rewrite writes it")
	}
	c, err := Load(examplePath, nil)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("Load of the example = %+v, %v, want the defaults", c, err)
	}
	for i, line := range strings.Split(string(file), "\n") {
		if len(line) > 100 {
			t.Errorf("line %d of the example is %d characters long", i+1, len(line))
		}
	}
	for _, k := range keys {
		if !strings.Contains(string(file), "\n"+strings.Repeat("  ", strings.Count(k.Path, "."))+k.Name()+":") {
			t.Errorf("the example does not set %s", k.Path)
		}
	}
	// What the example has in comments is true too.
	var commented []string
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, "#  "); ok {
			line = "  " + rest
		}
		commented = append(commented, line)
	}
	c, err = schema.Parse("commented", []byte(strings.Join(commented, "")))
	if err != nil || len(c.Registries) != 2 || len(c.Runtimes) != 2 {
		t.Errorf("the example with its comments: %+v, %v", c, err)
	}
}

func TestKeys(t *testing.T) {
	if err := schema.Check(); err != nil {
		t.Error(err)
	}
}

// TestFields checks that each key has a field of its own.
func TestFields(t *testing.T) {
	for path, text := range map[string]string{
		"data": "/d", "run": "/r", "runtime": "runc", "conmon": "/c", "init": "/i", "userns_remap": "u:g", "socket.path": "/s", "socket.group": "root",
		"metrics.addr": ":1", "log.level": "error", "log.format": "text", "registry.default": "a:1", "registry.certs_dir": "/e",
		"containers.log_driver": "journald", "containers.log_max_unsent": "3m", "containers.log_max_size": "1g", "containers.log_max_file": "7", "containers.stop_timeout": "0s",
		"build.cache_max_size": "7g",
		"network.bridge":       "br7", "network.subnet": "10.1.0.0/16", "network.subnet6": "fd00::/64",
		"report.name": "n-7", "report.interval": "1s",
	} {
		c, err := Load("", nil, settings.Setting{Key: path, Value: text})
		if err != nil {
			t.Errorf("%s cannot be set to %s: %v", path, text, err)
			continue
		}
		changed, needRestart := Reloadable(Default(), c)
		if got := append(changed, needRestart...); !reflect.DeepEqual(got, []string{path}) {
			t.Errorf("setting %s changes %q", path, got)
		}
	}
	c := Default()
	c.Registries = map[string]*Host{"a": {Insecure: true}}
	c.Log.Level = slog.LevelDebug
	changed, needRestart := Reloadable(Default(), c)
	if !reflect.DeepEqual(changed, []string{"log.level"}) || !reflect.DeepEqual(needRestart, []string{"registries"}) {
		t.Errorf("changed %q, need a restart %q", changed, needRestart)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.yaml")
	text := `data: /d
run: /r
runtime: /usr/bin/crun
runtimes: {runc: /usr/sbin/runc, runsc: {path: /opt/runsc, args: [--debug, "--platform=kvm"]}}
socket: {path: /s, group: ""}
tcp:
  addr: :2376
  tls: {cert: /c, key: /k, client_ca: /ca}
registries:
  docker.io:
    mirrors: [https://a.example.com, "http://localhost:5000/hub"]
  "localhost:5000": ~
  r.example.com: {endpoint: "https://other/x", ca: /ca, cert: /c, key: /k, insecure: true}
  told: {report: true, username: node, password_file: /p}
containers: {log_driver: syslog, log_opts: {tag: "{{.Name}}"}, log_max_unsent: 2m, log_max_size: 512k, log_max_file: 5}
network: {subnet: 10.0.0.0/24}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Data, want.Run, want.Runtime = "/env", "/r", "/usr/bin/crun"
	want.Runtimes = map[string]*Runtime{"runc": {Path: "/usr/sbin/runc"}, "runsc": {Path: "/opt/runsc", Args: []string{"--debug", "--platform=kvm"}}}
	want.Socket = Socket{Path: "/flag"}
	want.TCP = TCP{Addr: ":2376", TLS: TLS{Cert: "/c", Key: "/k", ClientCA: "/ca"}}
	want.Registries = map[string]*Host{
		"docker.io":      {Mirrors: []string{"https://a.example.com", "http://localhost:5000/hub"}},
		"localhost:5000": {},
		"r.example.com":  {Endpoint: "https://other/x", CA: "/ca", Cert: "/c", Key: "/k", Insecure: true},
		"told":           {Report: true, Username: "node", PasswordFile: "/p"},
	}
	want.Containers = Containers{LogDriver: "syslog", LogOpts: map[string]string{"tag": "{{.Name}}"}, LogMaxUnsent: 2_000_000, LogMaxSize: 512_000, LogMaxFile: 5, StopTimeout: time.Minute}
	want.Network.Subnet = netip.MustParsePrefix("10.0.0.0/24")
	// BERTH_RUNNER_BIN is not one of ours, and none of our business.
	environ := []string{"BERTH_RUNNER_DATA=/env", "BERTH_RUNNER_CONTAINERS_STOP_TIMEOUT=1m", "BERTH_RUNNER_BIN=/x", "BERTH_HTTP_ADDR=nonsense"}
	c, err := Load(path, environ, settings.Setting{Key: "socket.path", Value: "/flag"})
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("Load = %+v, %v, want %+v", c, err, want)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		file    string
		environ []string
		want    string
	}{
		{file: "dat: x", want: `runner.yaml:1: dat: unknown key (did you mean data?)`},
		{file: "path: x", want: `runner.yaml:1: path: unknown key (did you mean socket.path?)`},
		{file: "data: 7", want: `runner.yaml:1: data: expected the path of a directory, found the number 7`},
		{file: "tcp: {tls: {crt: x}}", want: `runner.yaml:1: tcp.tls.crt: unknown key (did you mean tcp.tls.cert?)`},
		{
			file: "tcp: {addr: ':2375'}",
			want: `runner.yaml:1: tcp.addr: expected all of tcp.tls.cert, tcp.tls.key and tcp.tls.client_ca with it: ` +
				`whoever reaches the API is root, so over TCP it is served to clients with a certificate only`,
		},
		{file: "tcp:\n  tls: {key: /k}", want: `runner.yaml:2: tcp.tls.key: expected tcp.addr with it`},
		{file: "run: /x\ndata: /x", want: `runner.yaml:1: run: expected two directories that differ, found "/x" for data and run`},
		{file: "runtimes: x", want: `runner.yaml:1: runtimes: expected a mapping of names of OCI runtimes, found the text "x"`},
		{file: "runtimes: {/x: /y}", want: `runner.yaml:1: "runtimes./x": expected names of OCI runtimes, found the text "/x"`},
		{file: "runtimes: {runc: runc}", want: `runner.yaml:1: runtimes.runc: expected the absolute path of an OCI runtime, found "runc"`},
		{file: "runtimes: {a: /b, a: /c}", want: `runner.yaml:1: runtimes.a: expected once, found again after line 1`},
		{file: "registries: {'https://x': {}}", want: `runner.yaml:1: "registries.https://x": expected host[:port] of registries, found the text "https://x"`},
		{file: "registries: {x: /y}", want: `runner.yaml:1: registries.x: expected a mapping with the keys endpoint, mirrors, ca, cert, key, insecure, plain_http, report, username, password_file, found the text "/y"`},
		{file: "registries: {x: {y: 1}}", want: `runner.yaml:1: registries.x.y: unknown key (expected one of endpoint, mirrors, ca, cert, key, insecure, plain_http, report, username, password_file)`},
		{
			file: "registries:\n  x:\n    mirrors: https://m\n",
			want: `runner.yaml:3: registries.x.mirrors: expected a list of URLs such as https://mirror.example.com, found the text "https://m"`,
		},
		{
			file: "registries:\n  x:\n    mirrors:\n    - https://m\n    - m\n    - 7\n",
			want: `runner.yaml:5: registries.x.mirrors: expected a list of URLs such as https://mirror.example.com, found "m"` + "\n" +
				`runner.yaml:6: registries.x.mirrors: expected a list of URLs such as https://mirror.example.com, found the number 7`,
		},
		{file: "registries: {x: {insecure: 'yes'}}", want: `runner.yaml:1: registries.x.insecure: expected true or false, found the text "yes"`},
		{file: "registries: {x: {cert: /c}}", want: `runner.yaml:1: registries: expected both cert and key for x, or neither`},
		{
			file: "registries: {x: {plain_http: true, insecure: true}}",
			want: `runner.yaml:1: registries: expected no certificates and no insecure for x, which is spoken to by plain HTTP`,
		},
		{file: "registries: {x: {report: true, username: 'a:b'}}", want: `runner.yaml:1: registries.x.username: expected the name of an account, found "a:b"`},
		{file: "registries: {x: {report: true, username: a}}", want: `runner.yaml:1: registries: expected both username and password_file for x, or neither`},
		{
			file: "registries: {x: {username: a, password_file: /p}}",
			want: `runner.yaml:1: registries: expected report: true with username for x: it is not used to pull, for which docker has credentials`,
		},
		{file: "report: {name: a/b}", want: `runner.yaml:1: report.name: expected letters, digits, ".", "_" and "-", or "", found "a/b"`},
		{file: "report: {interval: 57h}", want: `runner.yaml:1: report.interval: expected a duration from 1s to 56h, found "57h"`},
		{file: "report: {interval: 10ms}", want: `runner.yaml:1: report.interval: expected a duration from 1s to 56h, found "10ms"`},
		{file: "containers: {log_max_size: 10}", want: `runner.yaml:1: containers.log_max_size: expected a size such as 512k, 10m or 1g, found the number 10`},
		{file: "containers: {log_max_file: 0}", want: `runner.yaml:1: containers.log_max_file: expected a number from 1, found "0"`},
		{file: "network: {subnet: 10.0.0.1/24}", want: `runner.yaml:1: network.subnet: expected a range such as 172.30.0.0/16, or "", found "10.0.0.1/24"`},
		{file: "network: {subnet: fd00::/64}", want: `runner.yaml:1: network.subnet: expected a range such as 172.30.0.0/16, or "", found "fd00::/64"`},
		{file: "network: {bridge: sixteen-letters-}", want: `runner.yaml:1: network.bridge: expected a device's name of at most 15 letters, or "", found "sixteen-letters-"`},
		{file: "socket: {path: " + strings.Repeat("x", 108) + "}", want: `runner.yaml:1: socket.path: expected a path of at most 107 bytes, found "` + strings.Repeat("x", 80) + `"...`},
		{environ: []string{"BERTH_RUNNER_SOCKET_PAHT=x"}, want: `environment BERTH_RUNNER_SOCKET_PAHT: unknown key (did you mean BERTH_RUNNER_SOCKET_PATH?)`},
		{environ: []string{"BERTH_RUNNER_DATAA=x"}, want: `environment BERTH_RUNNER_DATAA: unknown key (did you mean BERTH_RUNNER_DATA?)`},
		{environ: []string{"BERTH_RUNNER_RUNTIMES=x"}, want: `environment BERTH_RUNNER_RUNTIMES: expected runtimes in a file, which alone can set it`},
		{environ: []string{"BERTH_RUNNER_METRICS_ADDR=:1", "BERTH_RUNNER_LOG_LEVEL=x"}, want: `environment BERTH_RUNNER_LOG_LEVEL: expected one of debug, info, warn, error, found "x"`},
	} {
		var err error
		if c.environ != nil {
			_, err = Load("", c.environ)
		} else {
			_, err = schema.Parse("runner.yaml", []byte(c.file))
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%q %q: error\n%v\nwant\n%s", c.file, c.environ, err, c.want)
		}
	}
}

// FuzzParse checks that no file makes the decoder panic, and that each problem
// names the file in a line of its own.
func FuzzParse(f *testing.F) {
	f.Add(string(Example()))
	for _, text := range []string{
		"registries: {a: {mirrors: [x, {y: z}, *a]}}", "runtimes: {~: /x, [a]: b}", "registries: {a: ~, a: ~}", "registries:\n- a", "runtimes: {a: {b: c}}",
		"registries: {\"a\\nb\": {}}", "runtimes: &a {b: *a}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := schema.Parse("runner.yaml", []byte(text)); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "runner.yaml:") {
					t.Errorf("problem does not name the file: %q", line)
				}
			}
		}
	})
}
