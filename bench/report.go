package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// report is what a run found of one part of Berth.
type report struct {
	part    string
	Date    string            `json:"date"` // UTC
	Machine machine           `json:"machine"`
	Peers   map[string]string `json:"peers"` // versions of Debian's packages
	Runs    int               `json:"runs"`
	Quick   bool              `json:"quick,omitempty"` // a smoke test: figures mean nothing
	Full    bool              `json:"full,omitempty"`
	Figures []*figure         `json:"figures"`
}

func newReport(ctx context.Context, o options, part, dir string) *report {
	return &report{
		part:    part,
		Date:    time.Now().UTC().Format(time.RFC3339),
		Machine: thisMachine(dir),
		Peers:   peerVersions(ctx, part),
		Runs:    o.runs,
		Quick:   o.quick,
		Full:    o.full,
	}
}

// results are the reports in the file of results, by part.
type results map[string]*report

// writeJSON puts the report into the file at path.
func (r *report) writeJSON(path string) error {
	all := results{}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(old, &all); err != nil {
			return fmt.Errorf("%s does not hold results: %w", path, err)
		}
	}
	if old := all[r.part]; old != nil && r.Quick == old.Quick {
		r.adopt(old)
	}
	all[r.part] = r
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, append(b, '\n'), 0o644))
}

// adopt keeps of a report before the figures of works that this one has not done.
func (r *report) adopt(old *report) {
	place := map[string]int{}
	for i, w := range partOf(works, r.part) {
		place[w.name] = i
	}
	done := map[string]bool{}
	for _, f := range r.Figures {
		done[f.Work] = true
	}
	for _, f := range old.Figures {
		if _, known := place[f.Work]; known && !done[f.Work] {
			f.Date = cmp.Or(f.Date, old.Date)
			r.Figures = append(r.Figures, f)
		}
	}
	slices.SortStableFunc(r.Figures, func(a, b *figure) int { return place[a.Work] - place[b.Work] })
}

// The lines between which a file has the table of a part.
func sectionStart(part string) string { return section(part, "start") }
func sectionEnd(part string) string   { return section(part, "end") }

func section(part, edge string) string { return fmt.Sprintf("<!-- bench:%s:%s -->", part, edge) }

// replaceSection puts text between the lines of the file at path that mark the
// section of a part.
func replaceSection(path, part, text string) error {
	start, end := sectionStart(part), sectionEnd(part)
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := bytes.Cut(old, []byte(start))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no section between %s and %s", path, start, end)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n%s%s%s", before, start, text, end, after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}
