package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-registry/berth/runner"
)

// A container may ask for another runtime than the default, and keeps it.
func TestRuntimes(t *testing.T) {
	h := newHost(t, "crun")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	open := func(others map[string]Runtime) {
		t.Helper()
		var err error
		if h.Shim, err = Open(t.Context(), Options{Runtime: "crun", Runtimes: others, RunDir: h.dir}); err != nil {
			t.Fatal(err)
		}
	}
	open(map[string]Runtime{"other": {Path: "runc"}})
	req := h.request("/bin/sleep", "100")
	req.Runtime = "other"
	if _, err := h.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context(), req.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "oci/other", req.ID, "state.json")); err != nil {
		t.Errorf("runc does not know the container: %v", err)
	}
	if h.TakesFilters("other") || !h.TakesFilters("") || h.FilterFile(req.ID) != "" {
		t.Error("runc is said to take compiled filters")
	}

	bad := h.request("/bin/true")
	bad.Runtime = "third"
	if _, err := h.Create(t.Context(), bad); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("an unknown runtime: %v", err)
	}

	// A shim that does not know the name any more still knows the container.
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	open(nil)
	if st, err := h.Status(req.ID); err != nil || st.State != StateRunning {
		t.Errorf("it is %v, %v", st.State, err)
	}
	if err := h.Delete(context.Background(), req.ID); err != nil {
		t.Error(err)
	}

	for _, name := range []string{"a/b", "", "tree", "staging"} {
		if s, err := Open(t.Context(), Options{Runtime: "crun", Runtimes: map[string]Runtime{name: {Path: "runc"}}, RunDir: h.dir}); err == nil {
			t.Errorf("a runtime was named %q", name)
			_ = s.Close()
		}
	}
}
