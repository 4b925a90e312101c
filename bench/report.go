package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// report is what a run found.
type report struct {
	Date    string            `json:"date"` // UTC
	Machine machine           `json:"machine"`
	Peers   map[string]string `json:"peers"` // versions of Debian's packages
	Runs    int               `json:"runs"`
	Quick   bool              `json:"quick,omitempty"` // a smoke test: figures mean nothing
	Full    bool              `json:"full,omitempty"`
	Figures []*figure         `json:"figures"`
}

func newReport(ctx context.Context, o options, dir string) *report {
	return &report{
		Date:    time.Now().UTC().Format(time.RFC3339),
		Machine: thisMachine(dir),
		Peers:   peerVersions(ctx),
		Runs:    o.runs,
		Quick:   o.quick,
		Full:    o.full,
	}
}

func (r *report) writeJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, append(b, '\n'), 0o644))
}

// The lines between which a file has the table.
const (
	sectionStart = "<!-- bench:start -->"
	sectionEnd   = "<!-- bench:end -->"
)

// replaceSection puts text between the lines of the file at path that mark its
// section.
func replaceSection(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := bytes.Cut(old, []byte(sectionStart))
	_, after, ok2 := bytes.Cut(rest, []byte(sectionEnd))
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no section between %s and %s", path, sectionStart, sectionEnd)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n%s%s%s", before, sectionStart, text, sectionEnd, after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}
