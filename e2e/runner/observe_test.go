package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestObserve asks one runner all that it tells of itself and its containers.
func TestObserve(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{}, "--metrics-addr", "localhost:5005")
	h.docker.Run("pull", "-q", h.image("busybox"))
	o := &observer{host: h, image: h.image("busybox")}
	t.Run("stats", o.stats)
	t.Run("stats of what ends", o.statsEnd)
	t.Run("stats that cannot be read", o.statsUnreadable)
	t.Run("disk usage", o.diskUsage)
	t.Run("events", o.events)
	t.Run("event filters", o.eventFilters)
	t.Run("top", o.top)
	t.Run("health", o.health)
	t.Run("probes", o.probes)
	t.Run("metrics", o.metrics)
}

// observer is a host with an image.
type observer struct {
	*host
	image string
}

// get asks the API for a page, as a client of a version.
func (o *observer) get(t *testing.T, path string) *http.Response {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.Socket())
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://runner"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// decode reads the next of a stream of JSON.
func decode[T any](t *testing.T, d *json.Decoder) (v T) {
	t.Helper()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// until waits until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in 30 s it did not come to this: %s", what)
		}
	}
}

func (o *observer) stats(t *testing.T) {
	docker := o.docker
	docker.Run("run", "-d", "--name", "busy", "-m", "64m", "--pids-limit", "50", o.image, "sh", "-c",
		"head -c 3000000 /dev/urandom >/f; sync; ping -q 127.0.0.1 >/dev/null & while :; do :; done")
	docker.Run("run", "-d", "--name", "guest", "--network", "container:busy", o.image, "sleep", "300")
	docker.Run("run", "-d", "--name", "hosted", "--network", "host", o.image, "sleep", "300")
	docker.Run("run", "-d", "--name", "alone", "--network", "none", o.image, "sleep", "300")
	defer docker.Run("rm", "-f", "busy", "guest", "hosted", "alone")
	docker.Run("exec", "busy", "ping", "-c", "3", "-i", "0.1", gateway(o))

	type sample = container.StatsResponse
	stream := json.NewDecoder(o.get(t, "/v1.44/containers/busy/stats").Body)
	first, second := decode[sample](t, stream), decode[sample](t, stream)
	if !first.PreRead.IsZero() || second.PreRead != first.Read || second.PreCPUStats.CPUUsage.TotalUsage != first.CPUStats.CPUUsage.TotalUsage {
		t.Errorf("the sample before: %v and %v, of %v", first.PreRead, second.PreRead, first.Read)
	}
	used, all := second.CPUStats.CPUUsage.TotalUsage-first.CPUStats.CPUUsage.TotalUsage, second.CPUStats.SystemUsage-first.CPUStats.SystemUsage
	if used == 0 || all == 0 || used > all {
		t.Errorf("%d ns used of %d", used, all)
	}
	if second.Name != "/busy" || second.MemoryStats.Limit != 64<<20 || second.MemoryStats.Usage == 0 || second.PidsStats.Limit != 50 || second.PidsStats.Current < 2 {
		t.Errorf("a sample is %+v", second)
	}
	docker.Run("update", "--pids-limit", "60", "busy")
	for n, limit := 0, uint64(0); limit != 60; n++ { // one may have been on its way
		if limit = decode[sample](t, stream).PidsStats.Limit; n == 2 {
			t.Fatalf("after an update the limit is %d", limit)
		}
	}
	if n := second.Networks["eth0"]; n.RxBytes == 0 || n.TxPackets < 3 {
		t.Errorf("eth0: %+v", n)
	}
	once := decode[sample](t, json.NewDecoder(o.get(t, "/v1.44/containers/busy/stats?stream=false").Body))
	if once.PreRead.IsZero() || once.Read.Sub(once.PreRead) < 400*time.Millisecond {
		t.Errorf("once: the sample before is of %v, and this of %v", once.PreRead, once.Read)
	}
	shot := decode[sample](t, json.NewDecoder(o.get(t, "/v1.44/containers/busy/stats?stream=false&one-shot=true").Body))
	if !shot.PreRead.IsZero() || shot.Read.IsZero() {
		t.Errorf("one shot: the sample before is of %v", shot.PreRead)
	}
	for name, want := range map[string]bool{"guest": true, "hosted": false, "alone": false} {
		got := decode[sample](t, json.NewDecoder(o.get(t, "/containers/"+name+"/stats?stream=0&one-shot=1").Body))
		if (len(got.Networks) > 0) != want {
			t.Errorf("%s has the interfaces %v", name, got.Networks)
		}
	}
	if resp := o.get(t, "/containers/busy/stats?stream=1&one-shot=1"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a stream of one sample: %s", resp.Status)
	}
	if resp := o.get(t, "/containers/none/stats"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("of no container: %s", resp.Status)
	}
}

// gateway is the address of the host for containers.
func gateway(o *observer) string {
	return strings.TrimSpace(o.docker.Run("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"))
}

func (o *observer) statsEnd(t *testing.T) {
	type sample = container.StatsResponse
	o.docker.Run("run", "-d", "--name", "ends", o.image, "sleep", "300")
	stream := json.NewDecoder(o.get(t, "/containers/ends/stats").Body)
	if decode[sample](t, stream).Read.IsZero() {
		t.Error("the first sample is empty")
	}
	o.docker.Run("kill", "ends")
	until(t, "a container that does not run has empty samples", func() bool {
		s := decode[sample](t, stream)
		return s.Read.IsZero() && s.Name == "/ends"
	})
	if s := decode[sample](t, json.NewDecoder(o.get(t, "/containers/ends/stats?stream=false").Body)); !s.Read.IsZero() || s.ID == "" {
		t.Errorf("once, of one that does not run: %+v", s)
	}
	o.docker.Run("start", "ends")
	until(t, "when it runs again it is sampled again", func() bool { return !decode[sample](t, stream).Read.IsZero() })
	o.docker.Run("rm", "-f", "ends")
	until(t, "with the container the stream ends", func() bool {
		var s sample
		return errors.Is(stream.Decode(&s), io.EOF)
	})
}

// A file of statistics that cannot be read is told of: once in the log, and to a
// client as Docker does it, which has an empty sample in a stream, and an error when
// it asked for one. Other containers are not touched.
func (o *observer) statsUnreadable(t *testing.T) {
	type sample = container.StatsResponse
	o.docker.Run("run", "-d", "--name", "unreadable", o.image, "sleep", "300")
	o.docker.Run("run", "-d", "--name", "readable", o.image, "sleep", "300")
	defer o.docker.Run("rm", "-f", "unreadable", "readable")
	id := strings.TrimSpace(o.docker.Run("inspect", "--format", "{{.Id}}", "unreadable"))
	on := func(args ...string) string {
		t.Helper()
		ns := o.Machine.Path("proc", "1", "ns")
		cmd := exec.Command("nsenter", append([]string{"--mount=" + ns + "/mnt", "--pid=" + ns + "/pid"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	path := on("find", "/sys/fs/cgroup", "-path", "*"+id+"/pids.current")
	on("mount", "--bind", "/proc/1/mem", path) // whose first page cannot be read
	stream := json.NewDecoder(o.get(t, "/containers/unreadable/stats").Body)
	for range 2 {
		if s := decode[sample](t, stream); !s.Read.IsZero() || s.Name != "/unreadable" {
			t.Errorf("a sample is %+v", s)
		}
	}
	for range 2 {
		resp := o.get(t, "/containers/unreadable/stats?stream=0&one-shot=1")
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), "pids.current: input/output error") {
			t.Errorf("once: %s: %s", resp.Status, body)
		}
	}
	if got := o.docker.Run("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "unreadable", "readable"); got != "unreadable 0\nreadable 1\n" {
		t.Errorf("docker stats says %q", got)
	}
	if n := strings.Count(o.Log(), `"sample a container"`); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
	on("umount", path)
	if shot := decode[sample](t, json.NewDecoder(o.get(t, "/containers/unreadable/stats?stream=0&one-shot=1").Body)); shot.PidsStats.Current != 1 {
		t.Errorf("when it can be read again, a sample is %+v", shot)
	}
}

func (o *observer) diskUsage(t *testing.T) {
	docker := o.docker
	docker.Run("run", "--name", "sized", "-v", "sized:/v", o.image, "sh", "-c", "head -c 2000000 /dev/zero >/v/f; head -c 1000000 /dev/zero >/f")
	docker.Run("commit", "sized", "sized:1")
	docker.Run("volume", "create", "unused")
	defer docker.Run("volume", "rm", "sized", "unused")
	defer docker.Run("rmi", "sized:1")
	defer docker.Run("rm", "sized")

	type usage struct {
		LayersSize int64
		Images     []struct {
			RepoTags                     []string
			Size, SharedSize, Containers int64
		}
		Containers []struct{ SizeRw, SizeRootFs int64 }
		Volumes    []struct {
			Name      string
			UsageData struct{ Size, RefCount int64 }
		}
		BuildCache []any
	}
	du := decode[usage](t, json.NewDecoder(o.get(t, "/v1.44/system/df").Body))
	var base, sized, all int64
	for _, i := range du.Images {
		all += i.Size - i.SharedSize
		switch {
		case slices.Contains(i.RepoTags, o.image+":latest"):
			base = i.Size
			if i.SharedSize != i.Size || i.Containers < 1 {
				t.Errorf("the base shares %d of %d bytes, and has %d containers", i.SharedSize, i.Size, i.Containers)
			}
		case slices.Contains(i.RepoTags, "sized:1"):
			sized = i.Size
			if i.Size-i.SharedSize != 1_000_000 || i.Containers != 0 {
				t.Errorf("the other's own are %d bytes, and it has %d containers", i.Size-i.SharedSize, i.Containers)
			}
		}
	}
	if base == 0 || sized != base+1_000_000 || du.LayersSize != all+base {
		t.Errorf("images of %d and %d bytes; all layers have %d", base, sized, du.LayersSize)
	}
	if len(du.Containers) != 1 || du.Containers[0].SizeRw != 1_000_000 || du.Containers[0].SizeRootFs != base+1_000_000 {
		t.Errorf("containers: %+v", du.Containers)
	}
	if out := docker.Run("ps", "-as", "--filter", "name=sized", "--format", "{{.Size}}"); !strings.HasPrefix(out, "1MB (virtual ") {
		t.Errorf("ps -s says %q", out)
	}
	want := map[string][2]int64{"sized": {2_000_000, 1}, "unused": {0, 0}}
	for _, v := range du.Volumes {
		if got := [2]int64{v.UsageData.Size, v.UsageData.RefCount}; got != want[v.Name] {
			t.Errorf("volume %s has %d bytes and %d users", v.Name, got[0], got[1])
		}
		delete(want, v.Name)
	}
	if len(want) > 0 {
		t.Errorf("there are volumes besides: %v", want)
	}
	only := decode[map[string]json.RawMessage](t, json.NewDecoder(o.get(t, "/v1.44/system/df?type=volume").Body))
	if string(only["Images"]) != "null" || string(only["Containers"]) != "null" || !strings.Contains(string(only["Volumes"]), "unused") {
		t.Errorf("volumes alone: %s", only)
	}
	if resp := o.get(t, "/v1.44/system/df?type=ships"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("the use of ships: %s", resp.Status)
	}
	if out := docker.Run("system", "df", "-v"); !strings.Contains(out, "sized") || !strings.Contains(out, "2MB") {
		t.Errorf("docker system df -v says\n%s", out)
	}
}

// tell runs something and returns the events of it, each as TYPE ACTION, of those
// that the filters let through.
func (o *observer) tell(t *testing.T, do func(), filters ...string) []string {
	t.Helper()
	from := time.Now()
	do()
	args := []string{"events", "--format", "{{.Type}} {{.Action}}", "--since", from.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano)}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	return strings.Split(strings.TrimSpace(o.docker.Run(args...)), "\n")
}

// inOrder says whether the wanted are among the events, in their order.
func inOrder(got []string, want ...string) bool {
	for _, one := range got {
		if len(want) > 0 && one == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

func (o *observer) events(t *testing.T) {
	docker := o.docker
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := o.tell(t, func() {
		docker.Run("run", "-d", "--name", "told", "-v", "told:/v", o.image, "sleep", "300")
		docker.Run("exec", "told", "true")
		docker.Run("top", "told")
		docker.Run("cp", filepath.Join(dir, "f"), "told:/f")
		docker.Run("cp", "told:/f", filepath.Join(dir, "g"))
		docker.Run("pause", "told")
		docker.Run("unpause", "told")
		docker.Run("rename", "told", "retold")
		docker.Run("update", "--cpu-shares", "500", "retold")
		docker.Run("commit", "retold", "told:1")
		docker.Run("export", "-o", filepath.Join(dir, "h"), "retold")
		docker.Run("restart", "-t", "0", "retold")
		docker.Run("stop", "-t", "0", "retold")
		docker.Run("rm", "retold")
		docker.Run("volume", "rm", "told")
		docker.Run("tag", "told:1", "told:2")
		docker.Run("rmi", "told:1", "told:2")
		docker.Run("container", "prune", "-f")
		docker.Run("image", "prune", "-f")
		docker.Run("volume", "prune", "-f")
	})
	want := []string{
		"volume create", "container create", "volume mount", "container start",
		"container exec_create: true", "container exec_start: true", "container exec_die", "container top",
		"container extract-to-dir", "container archive-path", "container pause", "container unpause",
		"container rename", "container update", "container commit", "container export",
		"container kill", "container die", "container stop", "container start", "container restart",
		"container kill", "container die", "container stop", "container destroy", "volume destroy",
		"image tag", "image untag", "image untag", "image delete",
		"container prune", "image prune", "volume prune",
	}
	if !inOrder(got, want...) {
		t.Errorf("the events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, want := range [][]string{
		{"container create", "network connect", "container start"},
		{"network disconnect", "container die"},
		{"volume unmount", "container die"},
	} {
		if !inOrder(got, want...) {
			t.Errorf("there is not this among the events: %v", want)
		}
	}
	got = o.tell(t, func() {
		if err := syscall.Kill(o.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		until(t, "the configuration is reloaded", func() bool { return strings.Contains(o.Log(), "configuration reloaded") })
	}, "type=daemon")
	if !slices.Equal(got, []string{"daemon reload"}) {
		t.Errorf("of the reload: %q", got)
	}
}

func (o *observer) eventFilters(t *testing.T) {
	do := func() {
		o.docker.Run("run", "--rm", "--name", "filtered", "--label", "tier=front", o.image, "true")
		o.docker.Run("run", "--rm", "--name", "another", o.image, "true")
	}
	count := func(filters ...string) int {
		return len(slices.DeleteFunc(o.tell(t, do, filters...), func(s string) bool { return s == "" }))
	}
	for _, tt := range []struct {
		filters []string
		want    int
	}{
		{[]string{"container=filtered", "event=die"}, 1},
		{[]string{"container=filtered", "container=another", "event=die", "event=start"}, 4},
		{[]string{"label=tier=front", "event=destroy"}, 1},
		{[]string{"label=tier=back"}, 0},
		{[]string{"image=" + o.image, "event=start"}, 2},
		{[]string{"type=container", "event=start", "scope=local"}, 2},
		{[]string{"type=plugin"}, 0},
		{[]string{"node=x"}, 0},
		{[]string{"service=x"}, 0},
		{[]string{"secret=x"}, 0},
		{[]string{"config=x"}, 0},
		{[]string{"daemon=x"}, 0},
		{[]string{"volume=x"}, 0},
	} {
		if got := count(tt.filters...); got != tt.want {
			t.Errorf("%v: %d events, want %d", tt.filters, got, tt.want)
		}
	}
	if _, stderr, err := o.docker.Try("events", "--until", "1", "--filter", "ship=x"); err == nil || !strings.Contains(stderr, "invalid filter 'ship'") {
		t.Errorf("a filter that there is not: %v, %s", err, stderr)
	}
	if _, stderr, err := o.docker.Try("events", "--since", "20", "--until", "10"); err == nil || !strings.Contains(stderr, "cannot be after") {
		t.Errorf("since after until: %v, %s", err, stderr)
	}

	// A fraction of a second tells two events apart.
	o.docker.Run("create", "--name", "early", o.image)
	between := time.Now()
	o.docker.Run("rm", "early")
	for bound, want := range map[string]string{"--since": "destroy", "--until": "create"} {
		args := []string{"events", "--format", "{{.Action}}", "--filter", "container=early"}
		if bound == "--until" {
			args = append(args, "--since", "10m")
		} else {
			args = append(args, "--until", time.Now().Format(time.RFC3339Nano))
		}
		if out := o.docker.Run(append(args, bound, between.Format(time.RFC3339Nano))...); out != want+"\n" {
			t.Errorf("%s: %q, want %s", bound, out, want)
		}
	}
	var m struct {
		Type, Action string
		TimeNano     int64
	}
	line := o.docker.Run("events", "--format", "{{json .}}", "--filter", "container=early", "--since", "10m", "--until", between.Format(time.RFC3339Nano))
	if err := json.Unmarshal([]byte(line), &m); err != nil || m.Action != "create" || m.TimeNano > between.UnixNano() {
		t.Errorf("as JSON: %s (%v)", line, err)
	}
}

func (o *observer) top(t *testing.T) {
	o.docker.Run("run", "-d", "--name", "top", o.image, "sh", "-c", "sleep 1111 & exec sleep 2222")
	defer o.docker.Run("rm", "-f", "top")
	until(t, "both run", func() bool {
		out := o.docker.Run("top", "top")
		return strings.Contains(out, "sleep 1111") && strings.Contains(out, "sleep 2222")
	})
	for _, tt := range []struct {
		args string
		rows int
	}{
		{"", 3}, {"-ef", 3}, {"aux", 3}, {"-o pid,comm", 3}, {"-eLf", 3}, {"-o pid= -o pid,args", 0}, {"-eo user,pid,etime,args", 3}, {"-ejH", 3}, {"-C sleep -o pid", 3},
	} {
		out, stderr, err := o.docker.Try(append([]string{"top", "top"}, strings.Fields(tt.args)...)...)
		if got := strings.Count(out, "\n"); tt.rows > 0 && (got != tt.rows || err != nil) {
			t.Errorf("top %s: %d rows, %v\n%s%s", tt.args, got, err, out, stderr)
		}
	}
	for args, want := range map[string]string{"-o comm": "Couldn't find PID field in ps output", "--nothing-like-it": "ps:", "-o user=PID -o pid": "is not allowed"} {
		if out, stderr, err := o.docker.Try(append([]string{"top", "top"}, strings.Fields(args)...)...); err == nil || !strings.Contains(stderr, want) {
			t.Errorf("top %s: %s%s", args, out, stderr)
		}
	}
}

// metricsPage is what somebody sees who scrapes the runner.
func (o *observer) metricsPage(t *testing.T) map[string][]string {
	t.Helper()
	resp, err := o.Machine.Client().Get("http://localhost:5005/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page := map[string][]string{} // the lines, by the metric's name
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		if name, _, ok := strings.Cut(strings.ReplaceAll(scan.Text(), " ", "{"), "{"); ok && name != "#" {
			page[name] = append(page[name], scan.Text())
		}
	}
	return page
}

// dashboard reads the expressions of the Grafana dashboard.
func dashboard(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := fs.ReadFile(os.DirFS(berthtest.ModuleRoot(t)), "packaging/grafana/berth-runner.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	return exprs
}
