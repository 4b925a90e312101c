package containers

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// TestLoadTellsOfDamage reads all that can be read beside what cannot, and leaves that
// as it is.
func TestLoadTellsOfDamage(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "cut": `{"ID":"aa","Name":"we`, "null": "null", "nothing": "{}", "other": `{"ID":"bb","Name":"web","Config":{},"HostConfig":{}}`,
		"bare": `{"ID":"aa","Name":"web"}`, "list": "[]", "binary": "\x00\x00\x00\x00", "status": `{"Status":"asleep"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, filepath.Join(t.TempDir(), "containers"))
			for _, id := range []string{"aa", "bb"} {
				ok(t, s.Create(record(id, id)))
				ok(t, s.SaveState(id, runner.State{Status: container.StateExited, ExitCode: 3}))
			}
			ok(t, os.Mkdir(s.Dir("lost+found"), 0o700))
			record, state := filepath.Join(s.Dir("aa"), recordFile), filepath.Join(s.Dir("bb"), stateFile)
			for _, file := range []string{record, state} {
				ok(t, os.WriteFile(file, []byte(text), 0o600))
			}
			all, err := s.Load()
			if err != nil || len(all) != 2 {
				t.Fatalf("%+v, %v", all, err)
			}
			one, other := all[0], all[1]
			if one.ID != "aa" || one.Container != nil || one.RecordErr == nil || !strings.Contains(one.RecordErr.Error(), record) ||
				one.StateErr != nil || one.State.ExitCode != 3 {
				t.Errorf("of a record: %+v", one)
			}
			if other.ID != "bb" || other.RecordErr != nil || other.Container.Name != "bb" || other.State.Status != "" ||
				other.StateErr == nil || !strings.Contains(other.StateErr.Error(), state) {
				t.Errorf("of a state: %+v", other)
			}
			for _, file := range []string{record, state} {
				if got, err := os.ReadFile(file); string(got) != text || err != nil {
					t.Errorf("%s has %q now, %v", file, got, err)
				}
			}
		})
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
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
