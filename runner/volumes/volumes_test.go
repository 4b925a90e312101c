package volumes_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/volumes"
)

// makerEnv is the directory in which the test program makes and removes volumes
// until it is killed.
const makerEnv = "BERTH_TEST_MAKER"

func TestMain(m *testing.M) {
	dir := os.Getenv(makerEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := volumes.Open(nil, volumes.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}) //nolint:staticcheck // there is none
	if err != nil {
		panic(err)
	}
	for n := 0; ; n++ {
		name := fmt.Sprint("vol", n)
		v, _, err := s.Create(nil, volume.CreateRequest{Name: name}) //nolint:staticcheck // there is none
		if err == nil {
			err = os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("x"), 0o600)
		}
		_, _ = fmt.Fprintln(os.Stdout, "+", name)
		if err == nil && n%2 == 0 {
			err = s.Remove(nil, name, false) //nolint:staticcheck // there is none
			_, _ = fmt.Fprintln(os.Stdout, "-", name)
		}
		if err != nil {
			panic(err)
		}
	}
}

func open(t *testing.T, dir string) *volumes.Store {
	t.Helper()
	s, err := volumes.Open(t.Context(), volumes.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func create(t *testing.T, s *volumes.Store, name string, labels map[string]string) volume.Volume {
	t.Helper()
	v, _, err := s.Create(t.Context(), volume.CreateRequest{Name: name, Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, s *volumes.Store, filters runner.Filters) string {
	t.Helper()
	list, err := s.List(t.Context(), filters)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Name)
	}
	return strings.Join(all, " ")
}

func TestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	s := open(t, dir)
	v := create(t, s, "data", map[string]string{"a": "b"})
	if v.Name != "data" || v.Driver != "local" || v.Scope != "local" || v.Labels["a"] != "b" || v.Mountpoint != filepath.Join(dir, "data/_data") {
		t.Errorf("%+v", v)
	}
	if at, err := time.Parse(time.RFC3339, v.CreatedAt); err != nil || time.Since(at) > time.Minute {
		t.Errorf("created at %s", v.CreatedAt)
	}
	if fi, err := os.Stat(v.Mountpoint); err != nil || fi.Mode() != os.ModeDir|0o755 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Once more is the same one, also for the next daemon.
	for range 2 {
		if again := create(t, s, "data", map[string]string{"other": ""}); again.CreatedAt != v.CreatedAt || again.Labels["a"] != "b" || len(again.Labels) != 1 {
			t.Errorf("%+v", again)
		}
		s = open(t, dir)
	}
	if u, err := s.Usage(t.Context(), "data"); err != nil || u.Size != 5 || u.RefCount != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := errors.Join(s.Ref("data", "c2"), s.Ref("data", "c1"), s.Ref("data", "c1")); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		if err := s.Remove(t.Context(), "data", force); !errors.Is(err, runner.ErrConflict) || err.Error() != "remove data: volume is in use - [c1, c2]" {
			t.Errorf("in use: %v", err)
		}
	}
	s.Unref("c1")
	if u, err := s.Usage(t.Context(), "data"); err != nil || u.RefCount != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	s.Unref("c2")
	if err := s.Remove(t.Context(), "data", false); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for what, err := range map[string]error{"remove": s.Remove(t.Context(), "data", false), "ref": s.Ref("data", "c")} {
		if !errors.Is(err, runner.ErrNotFound) || err.Error() != "get data: no such volume" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Get(t.Context(), "data"); !errors.Is(err, runner.ErrNotFound) || err.Error() != "get data: no such volume" {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "data", true); err != nil {
		t.Errorf("by force: %v", err)
	}
}

func TestRefused(t *testing.T) {
	s := open(t, t.TempDir())
	bad := `includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`
	for _, test := range []struct {
		req  volume.CreateRequest
		kind error
		want string
	}{
		{volume.CreateRequest{Name: "x"}, runner.ErrInvalid, "create x: volume name is too short, names should be at least two alphanumeric characters"},
		{volume.CreateRequest{Name: "a b"}, runner.ErrInvalid, `create a b: "a b" ` + bad},
		{volume.CreateRequest{Name: "../up"}, runner.ErrInvalid, `create ../up: "../up" ` + bad},
		{volume.CreateRequest{Name: ".."}, runner.ErrInvalid, `create ..: ".." ` + bad},
		{volume.CreateRequest{Name: ".new-x"}, runner.ErrInvalid, `create .new-x: ".new-x" ` + bad},
		{volume.CreateRequest{Name: "a\nb"}, runner.ErrInvalid, "create a\nb: \"a\\nb\" " + bad},
		{volume.CreateRequest{Name: "ab\n"}, runner.ErrInvalid, "create ab\n: \"ab\\n\" " + bad},
		{volume.CreateRequest{Name: "a/b"}, runner.ErrInvalid, `create a/b: "a/b" ` + bad},
		{volume.CreateRequest{Name: strings.Repeat("x", 256)}, runner.ErrInvalid, "create " + strings.Repeat("x", 256) + ": volume name is too long, names should be at most 255 characters"},
		{volume.CreateRequest{Name: "vol", Driver: "nfs"}, runner.ErrNotFound, `create vol: error looking up volume plugin nfs: plugin "nfs" not found`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"colour": "red"}}, runner.ErrInvalid, `create vol: invalid option: "colour"`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"type": "tmpfs"}}, runner.ErrInvalid, `create vol: missing required option: "device"`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"device": "tmpfs"}}, runner.ErrInvalid, `create vol: missing required option: "type"`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"o": "size=1m", "type": "tmpfs"}}, runner.ErrInvalid, `create vol: missing required option: "device"`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"device": "/a\x00b", "type": "none"}}, runner.ErrInvalid, `create vol: invalid value of option: "device"`},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"size": "10m"}}, runner.ErrInvalid, "create vol: quota size requested but no quota support"},
		{volume.CreateRequest{Name: "vol", DriverOpts: map[string]string{"size": "much"}}, runner.ErrInvalid, "create vol: invalid size: 'much'"},
		{volume.CreateRequest{Name: "vol", ClusterVolumeSpec: &volume.ClusterVolumeSpec{}}, runner.ErrNotImplemented, "create vol: cluster volumes are not supported"},
	} {
		if _, _, err := s.Create(t.Context(), test.req); err == nil || err.Error() != test.want || !errors.Is(err, test.kind) {
			t.Errorf("%+v: %v", test.req, err)
		}
	}
	if got := names(t, s, nil); got != "" {
		t.Errorf("made all the same: %s", got)
	}
	create(t, s, strings.Repeat("x", 255), nil)
}

func TestListAndPrune(t *testing.T) {
	s := open(t, t.TempDir())
	create(t, s, "alpha", map[string]string{"env": "test", "keep": ""})
	create(t, s, "beta", map[string]string{"env": "prod"})
	anonymous := create(t, s, "", nil)
	if _, ok := anonymous.Labels[volumes.AnonymousLabel]; len(anonymous.Name) != 64 || !ok {
		t.Errorf("%+v", anonymous)
	}
	if err := os.WriteFile(filepath.Join(anonymous.Mountpoint, "f"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Ref("beta", "c"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		filters runner.Filters
		want    string
	}{
		{runner.Filters{"name": {"lph"}}, "alpha"},
		{runner.Filters{"name": {"^be", "alpha"}}, "alpha beta"},
		{runner.Filters{"name": {"["}}, ""},
		{runner.Filters{"label": {"env"}}, "alpha beta"},
		{runner.Filters{"label": {"env=prod"}}, "beta"},
		{runner.Filters{"dangling": {"false"}}, "beta"},
		{runner.Filters{"dangling": {"1"}, "label": {"env"}}, "alpha"},
		{runner.Filters{"driver": {"local"}, "name": {"beta"}}, "beta"},
		{runner.Filters{"driver": {"nfs"}}, ""},
	} {
		if got := names(t, s, test.filters); got != test.want {
			t.Errorf("%v: %q, want %q", test.filters, got, test.want)
		}
	}
	for _, filters := range []runner.Filters{{"size": {"1"}}, {"dangling": {"maybe"}}, {"dangling": {"true", "false"}}} {
		if _, err := s.List(t.Context(), filters); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%v: %v", filters, err)
		}
	}
	report, err := s.Prune(t.Context(), nil)
	if err != nil || fmt.Sprint(report.VolumesDeleted) != "["+anonymous.Name+"]" || report.SpaceReclaimed != 1000 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := s.Prune(t.Context(), runner.Filters{"all": {"true"}, "label!": {"keep"}}); err != nil || len(report.VolumesDeleted) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := s.Prune(t.Context(), runner.Filters{"all": {"1"}}); err != nil || fmt.Sprint(report.VolumesDeleted) != "[alpha]" {
		t.Errorf("%+v, %v", report, err)
	}
	if got := names(t, s, nil); got != "beta" {
		t.Errorf("left: %s", got)
	}
}

func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"empty", ".old-x/_data", ".new-y", "renamed/_data"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "renamed/volume.json"), []byte(`{"name":"other"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	s.Close()
	if got := names(t, s, nil); got != "" {
		t.Errorf("volumes: %s", got)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestConcurrent makes, uses and removes one volume from many sides.
func TestConcurrent(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := fmt.Sprint("c", i)
			for range 20 {
				v, _, err := s.Create(t.Context(), volume.CreateRequest{Name: "shared"})
				if err != nil {
					t.Error(err)
				}
				if s.Ref("shared", id) == nil {
					if err := os.WriteFile(filepath.Join(v.Mountpoint, id), nil, 0o600); err != nil {
						t.Errorf("a volume in use is gone: %v", err)
					}
					s.Unref(id)
				}
				if err := s.Remove(t.Context(), "shared", false); err != nil && !errors.Is(err, runner.ErrConflict) && !errors.Is(err, runner.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestKilled kills a process that makes and removes volumes.
func TestKilled(t *testing.T) {
	for i := range 10 {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), makerEnv+"="+dir)
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(30+7*i) * time.Millisecond) // somewhere in its work
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		s := open(t, dir)
		s.Close()
		there := make(map[string]bool)
		for name := range strings.FieldsSeq(names(t, s, nil)) {
			there[name] = true
			if _, err := os.Stat(filepath.Join(dir, name, "_data")); err != nil {
				t.Error(err)
			}
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for n, line := range lines {
			sign, name, _ := strings.Cut(line, " ")
			last := n == len(lines)-1 // what it did next may have happened or not
			if sign == "+" && !there[name] && !last && lines[n+1] != "- "+name || sign == "-" && there[name] {
				t.Errorf("after %q: there is %v", line, there[name])
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}
