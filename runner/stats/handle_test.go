package stats

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// sampled opens a container, and returns what samples it.
func sampled(t *testing.T, s *Sampler, target Target) (*handle, func() *container.StatsResponse) {
	t.Helper()
	h, err := s.open(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	var buf []byte
	return h, func() *container.StatsResponse {
		t.Helper()
		var now system
		now, buf = readSystem(buf)
		sample, err := h.sample(s, now, &buf)
		if err != nil {
			t.Fatal(err)
		}
		return sample
	}
}

// write writes a file of the container's cgroups.
func write(t *testing.T, s *Sampler, target Target, name, text string) {
	t.Helper()
	i := slices.IndexFunc(s.sources, func(src source) bool { return src.name == name })
	if err := os.WriteFile(s.sources[i].path(target), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What a container that does nothing cannot change is read again when it does
// something, when its limits are set, and now and then.
func TestPace(t *testing.T) {
	s := open(t)
	path := group(t, s, "pace")
	stdin, shell := shellIn(t, s, path)
	target := Target{Cgroup: path, PID: shell, Limits: &container.Resources{}}
	h, sample := sampled(t, s, target)
	first := sample()
	kept := *first
	if first.PidsStats.Current != 1 || first.PidsStats.Limit != 0 {
		t.Fatalf("processes: %+v", first.PidsStats)
	}
	write(t, s, target, "pids.max", "77")
	for n := 0; sample().PidsStats.Limit != 77; n++ {
		if n == refresh {
			t.Fatalf("a limit that somebody set is not told after %d samples", n)
		}
	}
	write(t, s, target, "pids.max", "78")
	if _, other := sampled(t, s, target); other().PidsStats.Limit != 78 {
		t.Error("a limit is not told after the files were opened")
	}
	h.left = 1 << 30 // not all is read any more
	for range 3 {    // nothing runs
		sample()
	}
	stdin("sleep 5 &")
	until(t, "two processes are told of", func() bool { return sample().PidsStats.Current == 2 })
	stdin("kill $!; wait")
	until(t, "one is told of again", func() bool { return sample().PidsStats.Current == 1 })
	if first.PidsStats != kept.PidsStats || !slices.Equal(first.CPUStats.CPUUsage.PercpuUsage, kept.CPUStats.CPUUsage.PercpuUsage) {
		t.Errorf("a sample that was told of has become %+v", first)
	}
}

func TestPaceOfLimits(t *testing.T) {
	some := &container.Resources{Memory: 1 << 20, NanoCPUs: 1}
	for _, tt := range []struct {
		pace   pace
		limits *container.Resources
		want   pace
	}{
		{quota, nil, ran},
		{quota, &container.Resources{}, set},
		{quota, &container.Resources{CPUQuota: 5}, ran},
		{quota, some, ran},
		{limit, nil, ran},
		{limit, &container.Resources{CPUQuota: 5}, set},
		{limit, some, ran},
		{set, some, set},
		{clock, nil, clock},
	} {
		if got := tt.pace.of(tt.limits); got != tt.want {
			t.Errorf("%d with %+v is %d, want %d", tt.pace, tt.limits, got, tt.want)
		}
	}
}

// A file that cannot be read is no zero: there is no sample, and who watches is told
// why.
func TestUnreadable(t *testing.T) {
	for what, wrong := range map[string]struct {
		name string // of what cannot be read, in a cgroup
		want error
	}{
		"a directory":    {".", unix.EISDIR},
		"a name no file": {"cgroup.procs/x", unix.ENOTDIR},
	} {
		s := open(t)
		path := group(t, s, "unreadable")
		s.sources = append(s.sources, source{s.sources[0].mount, wrong.name, each, parseCPUStat})
		if _, err := s.Read(Target{Cgroup: path}); !errors.Is(err, wrong.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", what, err, wrong.want)
		}
		var why error
		r := s.Watch("id", Subject{
			Find:   func() (Target, bool) { return Target{Cgroup: path}, true },
			Failed: func(err error) { why = err },
		})
		if !next(t, r).Read.IsZero() || !errors.Is(why, wrong.want) {
			t.Errorf("%s: watched: %v, want %v", what, why, wrong.want)
		}
		r.Close()
	}
}

// A process that has no files left fails to sample, and says so.
func TestNoFilesLeft(t *testing.T) {
	s := open(t)
	path := group(t, s, "files")
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = 1 // those that are open stay so
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(Target{Cgroup: path})
	now, _ := readSystem(nil)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || !errors.Is(now.err, unix.EMFILE) {
		t.Errorf("without files: %v; and of the host: %v", err, now.err)
	}
}

// What a kernel does not have counts as zero, and is told of once.
func TestAbsent(t *testing.T) {
	var log bytes.Buffer
	s, err := Open(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	path := group(t, s, "absent")
	s.sources = append(s.sources, source{s.sources[0].mount, "cpu.nothing", each, parseCPUStat})
	for range 2 {
		if _, err := s.Read(Target{Cgroup: path}); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Read(Target{Cgroup: path + "-none"}); !errors.Is(err, ErrGone) {
		t.Errorf("of no cgroup: %v", err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, filepath.Join(path, "cpu.nothing")) {
		t.Errorf("the log says\n%s", got)
	}
}

// shellIn runs a shell in a cgroup, which does what is written to it.
func shellIn(t *testing.T, s *Sampler, path string) (do func(line string), pid int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	pid, _ = run(t, s, path, "exec sh <&3", r)
	return func(line string) {
		if _, err := w.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}, pid
}
