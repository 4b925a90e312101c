package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/tinylib/msgp/msgp"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestLogDrivers sends what containers write to the servers that are there for it:
// the journal of systemd, rsyslog, and one that speaks fluentd's protocol.
func TestLogDrivers(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Run("pull", "-q", h.image("busybox"))
	before := h.usedCensus()
	for name, test := range map[string]func(*host, *testing.T){
		"journald": (*host).journald, "syslog": (*host).syslog, "refused": (*host).refusedDrivers,
		"outage": (*host).outage, "local": (*host).localDrivers,
	} {
		t.Run(name, func(t *testing.T) {
			with := *h
			with.t, with.docker = t, h.Docker(t)
			test(&with, t)
		})
	}
	// One that has restarted has no cgroup for containers until the first one comes, and
	// any of the parts may be the last.
	h.docker.Run("run", "--rm", h.image("busybox"), "true")
	h.Settle(t, before)
}

// journald checks the fields of entries in the journal.
func (h *host) journald(t *testing.T) {
	if _, err := os.Stat(journaldPath); err != nil {
		t.Fatalf("this test needs %s; run: apt-get install systemd", journaldPath)
	}
	sh := berthtest.NewCommand(t, "sh", "-c").On(h.Machine)
	if _, stderr, err := h.docker.Try("run", "--rm", "--log-driver", "journald", h.image("busybox"), "true"); err == nil || !strings.Contains(stderr, "journald is not enabled on this host") {
		t.Errorf("without a journal: %v, %s", err, stderr)
	}
	sh.Run("mkdir -p /run/systemd/journald.conf.d && printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n' >/run/systemd/journald.conf.d/test.conf")
	stop := berthtest.NewCommand(t, "sh", "-c", "exec "+journaldPath).On(h.Machine).Daemon(func() error {
		_, err := os.Stat(h.Machine.Path("run/systemd/journal/socket"))
		return err
	})
	long := strings.Repeat("long", 10_000)
	id, err := h.api.run(t.Context(), spec{"speaker", h.image("busybox"), []string{"sh", "-c", `printf 'one\0\377\n'; echo two >&2; echo "$LONG"; printf end`}, func(c *container.Config, hc *container.HostConfig) {
		c.Labels = map[string]string{"a.label": strings.Repeat("x", 300_000)} // more than a datagram takes
		c.Env = []string{"LONG=" + long}
		hc.LogConfig = container.LogConfig{Type: "journald", Config: map[string]string{"labels": "a.label", "tag": "{{.Name}}/x"}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"CONTAINER_ID": id[:12], "CONTAINER_ID_FULL": id, "CONTAINER_NAME": "speaker", "CONTAINER_TAG": "speaker/x",
		"SYSLOG_IDENTIFIER": "speaker/x", "IMAGE_NAME": h.image("busybox"), "A_LABEL": "-",
	}
	var entries []map[string]any
	if err := eventually(func() error {
		out := berthtest.NewCommand(t, "journalctl").On(h.Machine).Run("-D", "/run/log/journal", "--all", "-o", "json", "CONTAINER_ID_FULL="+id)
		entries = nil
		for line := range strings.Lines(out) {
			entries = append(entries, map[string]any{})
			if err := json.Unmarshal([]byte(line), &entries[len(entries)-1]); err != nil {
				t.Fatal(err)
			}
		}
		if len(entries) != 6 { // the long line is in three pieces
			return fmt.Errorf("%d entries", len(entries))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for name, value := range want {
			if got := fmt.Sprint(e[name]); got != value && (value != "-" || len(got) != 300_000) {
				t.Errorf("%s is %.50s, want %s", name, got, value)
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b map[string]any) int { // those of stderr come by another pipe
		return strings.Compare(b["PRIORITY"].(string), a["PRIORITY"].(string))
	})
	joined := ""
	for i, e := range entries[1:4] {
		joined += e["MESSAGE"].(string)
		if e["CONTAINER_PARTIAL_ORDINAL"] != fmt.Sprint(i+1) || e["CONTAINER_PARTIAL_LAST"] != fmt.Sprint(i == 2) || e["CONTAINER_PARTIAL_ID"] != entries[1]["CONTAINER_PARTIAL_ID"] {
			t.Errorf("piece %d is %.300v", i, e)
		}
	}
	if joined != long {
		t.Errorf("the pieces are %d bytes, want %d", len(joined), len(long))
	}
	if got := fmt.Sprint(entries[0]["MESSAGE"]); got != "[111 110 101 0 255]" {
		t.Errorf("bytes are %s", got)
	}
	if entries[4]["MESSAGE"] != "end" || entries[5]["MESSAGE"] != "two" || entries[5]["PRIORITY"] != "3" || entries[0]["PRIORITY"] != "6" {
		t.Errorf("entries %.300v, %.300v", entries[4], entries[5])
	}
	if out, err := h.api.logs(t.Context(), id); err != nil || !strings.Contains(out, "one\x00\xff\n") || !strings.HasSuffix(out, "end") {
		t.Errorf("docker logs are %.100q, %v", out, err)
	}
	h.docker.Run("rm", "speaker")
	stop()
}

const journaldPath = "/lib/systemd/systemd-journald"

// rsyslogConf takes messages in all ways, and writes what it makes of them.
const rsyslogConf = `
global(workDirectory="/run" maxMessageSize="64k" DefaultNetstreamDriverCAFile="%[1]s" DefaultNetstreamDriverCertFile="%[2]s" DefaultNetstreamDriverKeyFile="%[3]s" parser.escapeControlCharactersOnReceive="off")
template(name="seen" type="string" string="%%inputname%% %%syslogfacility-text%%.%%syslogseverity-text%% %%app-name%% %%msg%%\n")
module(load="imudp") input(type="imudp" port="5140" name="udp")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid") input(type="imtcp" port="6514" name="tls")
module(load="imptcp") input(type="imptcp" port="5141" name="tcp")
module(load="imuxsock" SysSock.Use="off") input(type="imuxsock" Socket="/run/syslog.sock" CreatePath="on")
action(type="omfile" file="/run/seen" template="seen")
`

// syslog sends by each transport and in each format.
func (h *host) syslog(t *testing.T) {
	if tls, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so"); len(tls) == 0 {
		t.Fatal("this test needs TLS for rsyslogd; run: apt-get install rsyslog-gnutls")
	}
	ca := berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1", "localhost")
	own, ownKey := ca.Client("runner")
	if err := os.WriteFile(h.Machine.Path("run/rsyslog.conf"), fmt.Appendf(nil, rsyslogConf, ca.File, cert, key), 0o600); err != nil {
		t.Fatal(err)
	}
	rsyslog := berthtest.NewCommand(t, "rsyslogd").On(h.Machine)
	start := func() func() {
		return rsyslog.Daemon(func() error {
			c, err := h.Machine.Dial(t.Context(), "tcp", "127.0.0.1:6514")
			if err == nil {
				c.Close()
			}
			return err
		}, "-n", "-f", "/run/rsyslog.conf", "-i", "/run/rsyslogd.pid")
	}
	stop := start()
	tls := []string{"syslog-tls-ca-cert=" + ca.File, "syslog-tls-cert=" + own, "syslog-tls-key=" + ownKey}
	seen := func() string {
		text, err := os.ReadFile(h.Machine.Path("run/seen"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, test := range []struct {
		opts []string
		want string
	}{
		{[]string{"syslog-address=udp://127.0.0.1:5140"}, "udp daemon.info"},
		{[]string{"syslog-address=tcp://127.0.0.1:5141", "syslog-format=rfc3164", "syslog-facility=local3"}, "tcp local3.info"},
		{[]string{"syslog-address=tcp://localhost:5141", "syslog-format=rfc5424", "syslog-facility=1"}, "tcp user.info"},
		{append([]string{"syslog-address=tcp+tls://127.0.0.1:6514", "syslog-format=rfc5424micro"}, tls...), "tls daemon.info"},
		{append([]string{"syslog-address=tcp+tls://localhost:6514"}, tls...), "tls daemon.info"},
		{[]string{"syslog-address=unixgram:///run/syslog.sock"}, "imuxsock daemon.info"},
	} {
		name := strings.NewReplacer("/", "", ":", "", "=", "").Replace(strings.Join(test.opts[:min(len(test.opts), 2)], "-"))
		args := []string{"run", "--rm", "--log-driver", "syslog", "--log-opt", "tag=" + name}
		for _, o := range test.opts {
			args = append(args, "--log-opt", o)
		}
		// What it has written is sent though it is gone.
		h.docker.Run(append(args, h.image("busybox"), "sh", "-c", "echo first; echo bad >&2; echo last")...)
		want := []string{test.want + " " + name, strings.Replace(test.want, "info", "err", 1) + " " + name}
		if err := eventually(func() error {
			text := strings.ReplaceAll(seen(), "\n ", "\n")
			for _, line := range []string{want[0] + "|first", want[0] + "|last", want[1] + "|bad"} {
				before, after, _ := strings.Cut(line, "|")
				if !slices.ContainsFunc(strings.Split(text, "\n"), func(s string) bool {
					return strings.HasPrefix(s, before) && strings.HasSuffix(s, " "+after)
				}) {
					return fmt.Errorf("no line %q", line)
				}
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v in:\n%s", test.opts, err, seen())
		}
	}

	// A server that ends and comes back gets what was written meanwhile.
	h.docker.Run("run", "-d", "--name", "counter", "--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:5141", "--log-opt", "tag=counter",
		h.image("busybox"), "sh", "-c", "i=0; while [ ! -e /stop ]; do echo n$i.; i=$((i+1)); sleep 0.01; done; echo n$i.; sleep 1000")
	await := func(n int) {
		t.Helper()
		if err := eventually(func() error {
			if !strings.Contains(seen(), fmt.Sprintf("n%d.", n)) {
				return fmt.Errorf("number %d has not come", n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	await(20)
	stop()
	h.docker.Run("exec", "counter", "sleep", "0.5")
	h.Kill()
	h.Restart()
	h.docker.Run("exec", "counter", "sleep", "0.2")
	h.docker.Run("exec", "counter", "touch", "/stop")
	stop = start()
	out := ""
	if err := eventually(func() error {
		out = h.docker.Run("logs", "counter")
		lines := strings.Fields(out)
		text := seen()
		for _, n := range lines {
			if !strings.Contains(text, " "+n) {
				return fmt.Errorf("%s of %d is missing", n, len(lines))
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out, "\n"); n < 50 {
		t.Errorf("only %d lines", n)
	}
	h.docker.Run("rm", "-f", "counter")
	stop()
}

// refusedDrivers are those that there are not, and servers that do not answer.
func (h *host) refusedDrivers(t *testing.T) {
	const start = "failed to create task for container: failed to initialize logging driver: "
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--log-driver", "gelf"}, "logger: no log driver named 'gelf' is registered"},
		{[]string{"--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:1"}, start + "dial tcp 127.0.0.1:1: connect: connection refused"},
		{[]string{"--log-driver", "syslog", "--log-opt", "syslog-address=unixgram:///run/none"}, start + "dial unixgram /run/none: connect: no such file or directory"},
		{[]string{"--log-driver", "syslog"}, start + "Unix syslog delivery error"},
		{[]string{"--log-driver", "fluentd"}, start + "dial tcp 127.0.0.1:24224: connect: connection refused"},
		{[]string{"--log-driver", "fluentd", "--log-opt", "a=b"}, "unknown log opt 'a' for fluentd log driver"},
		{[]string{"--log-opt", "a=b"}, "unknown log opt 'a' for json-file log driver"},
	} {
		if _, stderr, err := h.docker.Try(append(append([]string{"run", "--rm"}, test.args...), h.image("busybox"), "true")...); err == nil || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: %v: %s", test.args, err, stderr)
		}
	}
	if out := h.docker.Run("info", "--format", "{{.LoggingDriver}} {{.Plugins.Log}}"); out != "json-file [fluentd journald json-file local syslog]\n" {
		t.Errorf("info is %s", out)
	}
	h.docker.Run("run", "--name", "hidden", "--log-driver", "fluentd", "--log-opt", "fluentd-async=true", "--log-opt", "cache-disabled=true", h.image("busybox"), "echo", "x")
	if _, stderr, err := h.docker.Try("logs", "hidden"); err == nil || !strings.Contains(stderr, "configured logging driver does not support reading") {
		t.Errorf("logs of a container without a cache: %v: %s", err, stderr)
	}
	h.docker.Run("rm", "hidden")
	left, err := os.ReadDir(h.Data + "/logs")
	if err != nil || len(left) != 1 {
		t.Errorf("%d logs are left to be sent, %v", len(left), err)
	}
	h.Stop()
	if err := os.RemoveAll(h.Data + "/logs"); err != nil { // its server never comes
		t.Error(err)
	}
	h.Restart()
}

// outage has fluentd come only when the container is gone and the daemon was
// killed.
func (h *host) outage(t *testing.T) {
	args := []string{
		"--log-driver", "fluentd", "--log-opt", "fluentd-address=unix:///run/fluent.sock", "--log-opt", "fluentd-async=true",
		"--log-opt", "fluentd-request-ack=true", "--log-opt", "fluentd-sub-second-precision=true", "--log-opt", "tag=t.{{.Name}}", "--log-opt", "env=E",
	}
	h.docker.Run(append(append([]string{"run", "--rm", "--name", "gone", "-e", "E=v"}, args...), h.image("busybox"), "sh", "-c", "seq 20000 | sed 's/^/gone /'")...)
	h.docker.Run(append(append([]string{"run", "-d", "--name", "stays"}, args...), h.image("busybox"), "sh", "-c", "seq 20000 | sed 's/^/stays /'; sleep 1000")...)
	h.Kill()
	h.Restart()
	l, err := net.Listen("unix", h.Machine.Path("run/fluent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fluentServer{got: map[string][]string{}}
	var serving sync.WaitGroup
	serving.Go(func() { f.serve(l) })
	for _, name := range []string{"gone", "stays"} {
		if err := eventually(func() error { return f.has("t."+name, name, 20_000) }); err != nil {
			t.Error(err)
		}
	}
	if err := eventually(func() error {
		left, err := os.ReadDir(h.Data + "/logs")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d logs are left", len(left))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	h.docker.Run("rm", "-f", "stays")
	l.Close()
	serving.Wait()
	if f.err != nil {
		t.Error(f.err)
	}
	if r := f.record; r["container_name"] != "/gone" || r["source"] != "stdout" || r["E"] != "v" || len(fmt.Sprint(r["container_id"])) != 64 {
		t.Errorf("a record is %v", r)
	}
}

// fluentServer takes messages in Forward mode, and acknowledges them.
type fluentServer struct {
	mu     sync.Mutex
	got    map[string][]string // lines by tag
	record map[string]any      // the first
	err    error
}

// serve ends with the listener and its connections.
func (f *fluentServer) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if err := f.take(c); err != nil && !errors.Is(err, io.EOF) {
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
		}
		c.Close()
	}
}

func (f *fluentServer) take(c net.Conn) error {
	r := msgp.NewReader(c)
	for {
		v, err := r.ReadIntf()
		if err != nil {
			return errors.Unwrap(fmt.Errorf("%w", err))
		}
		message, ok := v.([]any)
		if !ok || len(message) != 3 {
			return fmt.Errorf("a message is %.200v", v)
		}
		entries, _ := message[1].([]any)
		options, _ := message[2].(map[string]any)
		f.mu.Lock()
		for _, e := range entries {
			record := e.([]any)[1].(map[string]any)
			if f.record == nil && message[0] == "t.gone" {
				f.record = record
			}
			f.got[message[0].(string)] = append(f.got[message[0].(string)], record["log"].(string))
		}
		f.mu.Unlock()
		if options["size"] != int64(len(entries)) || options["chunk"] == "" {
			return fmt.Errorf("options of %d entries are %v", len(entries), options)
		}
		var ack bytes.Buffer
		w := msgp.NewWriter(&ack)
		if err := errors.Join(w.WriteMapStrStr(map[string]string{"ack": options["chunk"].(string)}), w.Flush()); err != nil {
			return err
		}
		if _, err := c.Write(ack.Bytes()); err != nil {
			return err
		}
	}
}

// has says whether all numbers have come with a tag, in their order. Some may have
// come twice.
func (f *fluentServer) has(tag, text string, count int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := 1
	for _, line := range f.got[tag] {
		var n int
		if _, err := fmt.Sscanf(line, text+" %d", &n); err != nil || n > next {
			return fmt.Errorf("%q comes after number %d", line, next-1)
		}
		next = max(next, n+1)
	}
	if next <= count {
		return fmt.Errorf("%d lines of %s have come", next-1, tag)
	}
	return nil
}

// localDrivers compresses, and reads what is compressed.
func (h *host) localDrivers(t *testing.T) {
	h.docker.Run("run", "--name", "packed", "--log-opt", "max-size=200k", "--log-opt", "max-file=4", "--log-opt", "compress=true", "--log-opt", "mode=non-blocking",
		h.image("busybox"), "seq", "90000")
	path := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.LogPath}}", "packed"))
	if err := eventually(func() error {
		entries, err := os.ReadDir(path[:strings.LastIndex(path, "/")])
		if err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".gz") }) {
			err = fmt.Errorf("nothing is compressed: %v", entries)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	lines := strings.Fields(h.docker.Run("logs", "packed"))
	for i, line := range lines {
		if line != fmt.Sprint(90_000-len(lines)+1+i) && i > 0 {
			t.Fatalf("line %d of %d is %s", i, len(lines), line)
		}
	}
	if n := len(lines); n < 5000 || n == 90_000 {
		t.Errorf("%d lines are left", n)
	}
	if out := h.docker.Run("logs", "-n", "7000", "packed"); strings.Count(out, "\n") != 7000 || !strings.HasPrefix(out, "83001\n") {
		t.Errorf("the last lines are %d, from %.10s", strings.Count(out, "\n"), out)
	}
	h.docker.Run("rm", "packed")
	if path := h.docker.Run("inspect", "-f", "{{.LogPath}}", strings.TrimSpace(h.docker.Run("create", "--log-driver", "local", "--name", "unseen", h.image("busybox")))); path != "\n" {
		t.Errorf("the log of driver local is at %s", path)
	}
	h.docker.Run("rm", "unseen")
}
