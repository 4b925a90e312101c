package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berth-registry/berth/admin"
)

// watchEvery is how often --watch looks again.
const watchEvery = time.Second

// mirrorScreen shows how mirrors and jobs are, and again if that has changed.
type mirrorScreen struct {
	w     io.Writer
	json  bool
	again bool
	last  string
}

// run shows them once, or again and again until ctx ends.
func (s *mirrorScreen) run(ctx context.Context, look func() (admin.MirrorStatus, error)) error {
	for {
		status, err := look()
		if err == nil {
			err = s.show(status)
		}
		if err != nil && ctx.Err() == nil || !s.again {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // it was interrupted, as it should be
		case <-time.After(watchEvery):
		}
	}
}

func (s *mirrorScreen) show(status admin.MirrorStatus) error {
	var b strings.Builder
	var err error
	switch {
	case s.json && s.again:
		err = printLine(&b, status)
	case s.json:
		err = printJSON(&b, status)
	default:
		err = printMirrorStatus(&b, status)
	}
	text := b.String()
	if err != nil || text == s.last {
		return err
	}
	if s.last != "" && !s.json {
		before := "\n"
		if isTerminal(s.w) { // over what was there before
			before = fmt.Sprintf("\x1b[%dA\x1b[J", strings.Count(s.last, "\n"))
		}
		text = before + text
	}
	s.last = b.String()
	_, err = io.WriteString(s.w, text)
	return err
}

// printMirrorStatus prints how mirrors are, and then jobs.
func printMirrorStatus(w io.Writer, s admin.MirrorStatus) error {
	if len(s.Mirrors) == 0 && len(s.Jobs) == 0 {
		_, err := fmt.Fprintln(w, "There are no mirrors: the server's configuration has none (mirrors).")
		return err
	}
	if err := printMirrorUpstreams(w, s.Mirrors); err != nil {
		return err
	}
	if len(s.Mirrors) > 0 && len(s.Jobs) > 0 {
		_, _ = fmt.Fprintln(w)
	}
	return printMirrorJobs(w, s.Jobs)
}

// printMirrorJobs prints how jobs are.
func printMirrorJobs(w io.Writer, jobs []admin.MirrorJob) error {
	for i, j := range jobs {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		row := func(what, format string, args ...any) { _, _ = fmt.Fprintf(t, what+"\t"+format+"\n", args...) }
		row("job", "%s", printable(j.Name))
		row("mirror", "%s, %s", printable(j.Mirror), printable(j.Schedule))
		shown := j.Last
		if j.Running && j.Now != nil {
			shown = j.Now
			row("running", "since %s: %s", ago(&j.Now.Began, "-"), mirrorCounts(j.Now.Counts))
			if j.Now.Waits != nil {
				row("waits", "until %s: the upstream is not to be asked before", j.Now.Waits.Local().Format(time.TimeOnly))
			}
		}
		if l := j.Last; l == nil {
			row("last", "never")
		} else {
			row("last", "%s, %s: %s", ago(l.Ended, "-"), printable(l.Outcome), mirrorCounts(l.Counts))
			if l.Reason != "" {
				row("reason", "%s", printable(l.Reason))
			}
		}
		if j.Last == nil || j.Last.Outcome != "ok" {
			row("good", "%s", ago(j.Good, "never"))
		}
		if !j.Running {
			row("next", "%s", ago(j.Next, "when 'berth mirror run' says so"))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if err := printMirrorFailures(w, shown); err != nil {
			return err
		}
	}
	return nil
}

func printMirrorFailures(w io.Writer, run *admin.MirrorRun) error {
	if run == nil || len(run.Failures) == 0 {
		return nil
	}
	for _, f := range run.Failures {
		if _, err := fmt.Fprintf(w, "failed  %s: %s\n", mirrorTag(f.Repo, f.Tag), printable(f.Reason)); err != nil {
			return err
		}
	}
	if more := run.Counts.Failed - int64(len(run.Failures)); more > 0 {
		if _, err := fmt.Fprintf(w, "and %d more\n", more); err != nil {
			return err
		}
	}
	return nil
}

func mirrorTag(repo, tag string) string {
	if tag == "" {
		return printable(repo)
	}
	return printable(repo + ":" + tag)
}

// mirrorCounts says to a user what a run has done.
func mirrorCounts(c admin.MirrorCounts) string {
	text := fmt.Sprintf("%s, %d unchanged, %d copied (%s)", countOf(int(c.Tags), "tag"), c.Unchanged, c.Copied, humanSize(c.Bytes))
	if c.Removed > 0 {
		text += fmt.Sprintf(", %d removed", c.Removed)
	}
	if c.Failed > 0 {
		text += fmt.Sprintf(", %d failed", c.Failed)
	}
	return text
}
