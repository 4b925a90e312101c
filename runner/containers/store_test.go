package containers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(id, name string) *runner.Container {
	return &runner.Container{
		ID: id, Name: name, Path: "/bin/true", Created: time.Unix(1700000000, 5).UTC(),
		Config:     &container.Config{Image: "busybox", Labels: map[string]string{"a": "b"}},
		HostConfig: &container.HostConfig{AutoRemove: true},
		Lower:      []string{"/layers/2", "/layers/1"},
	}
}

func TestStoreKeepsWhatItAcknowledged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "containers")
	s := open(t, dir)
	if err := s.Create(record("aa", "web")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(record("bb", "db")); err != nil {
		t.Fatal(err)
	}
	running := runner.State{Status: container.StateRunning, PID: 42, StartedAt: time.Unix(1700000001, 0).UTC()}
	if err := s.SaveState("bb", running); err != nil {
		t.Fatal(err)
	}
	renamed := record("aa", "front")
	if err := s.SaveRecord(renamed); err != nil {
		t.Fatal(err)
	}

	all, err := open(t, dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("%d containers, want 2", len(all))
	}
	if got := all[0]; got.Container.Name != "front" || got.State.Status != container.StateCreated ||
		got.Container.Lower[0] != "/layers/2" || !got.Container.HostConfig.AutoRemove {
		t.Errorf("the first is %+v", got)
	}
	if got := all[1].State; got.PID != 42 || !got.Running() || !got.StartedAt.Equal(running.StartedAt) {
		t.Errorf("the state of the second is %+v", got)
	}
	info, err := os.Stat(s.Upper("aa"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the writable layer: %v, %v", info, err)
	}
}

// What a daemon leaves that was killed while it made or removed a container.
func TestOpenClearsWhatIsHalf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "containers")
	s := open(t, dir)
	if err := s.Create(record("aa", "web")); err != nil {
		t.Fatal(err)
	}
	for _, half := range []string{making + "bb", removing + "cc"} {
		if err := os.MkdirAll(filepath.Join(dir, half, "upper", "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A state that was being written when the daemon ended.
	if err := os.WriteFile(filepath.Join(dir, "aa", stateFile+".tmp"), []byte(`{"Sta`), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := open(t, dir).Load()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d containers, %v", len(all), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

func TestRemove(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "containers"))
	if err := s.Create(record("aa", "web")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a removal can be repeated
		if err := s.Remove("aa"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.Dir("aa")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if err := s.SaveState("aa", runner.State{}); err == nil {
		t.Error("the state of a removed container could be saved")
	}
}

func TestLoadNamesTheBrokenRecord(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "containers"))
	if err := s.Create(record("aa", "web")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir("aa"), recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err == nil {
		t.Error("a broken record was read")
	}
}

func TestNext(t *testing.T) {
	const (
		created, running, paused = container.StateCreated, container.StateRunning, container.StatePaused
		exited, removing         = container.StateExited, container.StateRemoving
		restarting               = container.StateRestarting
	)
	for _, tt := range []struct {
		from  container.ContainerState
		event Event
		to    container.ContainerState // empty: refused
	}{
		{created, Start, running},
		{created, Exit, ""},
		{created, Remove, removing},
		{running, Start, ""},
		{running, Pause, paused},
		{running, Remove, ""},
		{running, Exit, exited},
		{running, Retry, restarting},
		{paused, Pause, ""},
		{paused, Start, ""},
		{paused, Resume, running},
		{paused, Exit, exited},
		{exited, Start, running},
		{exited, Exit, ""},
		{exited, Remove, removing},
		{restarting, Start, running},
		{restarting, Remove, ""},
		{removing, Start, ""},
		{removing, Remove, removing},
	} {
		to, err := Next(tt.from, tt.event)
		switch {
		case tt.to == "" && !errors.Is(err, runner.ErrConflict):
			t.Errorf("%s while %s: %s, %v, want a conflict", tt.event, tt.from, to, err)
		case tt.to != "" && (err != nil || to != tt.to):
			t.Errorf("%s while %s: %s, %v, want %s", tt.event, tt.from, to, err, tt.to)
		}
	}
}
