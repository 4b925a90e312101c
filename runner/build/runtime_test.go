package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRuntime has the script call a program that tells how it is called.
func TestRuntime(t *testing.T) {
	for name, c := range map[string]struct {
		help string // what the runtime says of "run"
		args []string
		want string // DIR is that of its state
	}{
		"runc runs":         {"--keep  do not delete", []string{"--log", "l", "run", "--bundle", "/a b", "--keep", "id"}, "--root DIR --log l run --bundle /a b --keep id"},
		"runc deletes":      {"--keep  do not delete", []string{"delete", "id"}, "--root DIR delete id"},
		"crun runs":         {"--detach", []string{"--log", "l", "run", "--bundle", "/a b", "--keep", "id"}, "--root DIR --log l run --bundle /a b id"},
		"crun kills":        {"--detach", []string{"kill", "id", "9"}, "--root DIR kill id 9"},
		"crun deletes":      {"--detach", []string{"delete", "there"}, "--root DIR delete --force there"},
		"what crun deleted": {"--detach", []string{"delete", "gone"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "it's a")
			program := filepath.Join(dir, "runtime-of-test")
			if err := os.MkdirAll(filepath.Join(dir, "oci", "there"), 0o700); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *--help*) echo '%s' ;; *) echo \"$*\" ;; esac\n", c.help)
			if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
			script, err := writeRuntime(Options{Run: dir, Runtime: program})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), script, c.args...)
			out, err := cmd.CombinedOutput()
			want := strings.ReplaceAll(c.want, "DIR", filepath.Join(dir, "oci"))
			if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != want {
				t.Errorf("called as %q, %v, want %q", got, err, want)
			}
		})
	}
	if _, err := writeRuntime(Options{Run: t.TempDir(), Runtime: "no-such-runtime"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without a runtime: %v", err)
	}
}
