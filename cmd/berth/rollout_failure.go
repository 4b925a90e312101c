package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/berth-registry/berth/rollout"
)

const (
	shownLogs  = 3  // nodes whose logs are shown
	shownLines = 20 // of each
)

// printFailures prints what failed last, if the nodes do not show it themselves, and the
// logs of the first nodes that failed.
func printFailures(w io.Writer, s rollout.Status) error {
	var errs []error
	shown := map[string]bool{}
	log := func(name, why string, lines []string) {
		if len(lines) == 0 || shown[name] || len(shown) == shownLogs {
			return
		}
		shown[name] = true
		_, err := fmt.Fprintf(w, "\nThe log of %s, %s:\n", printable(name), dash(why))
		errs = append(errs, err)
		for _, line := range lines[max(0, len(lines)-shownLines):] {
			_, err := fmt.Fprintf(w, "  %s\n", printable(line))
			errs = append(errs, err)
		}
	}
	if f := s.LastFailure; f != nil && (f.Digest != s.Digest || f.Attempt != s.Attempt) {
		_, err := fmt.Fprintln(w)
		errs = append(errs, err, printLastFailure(w, f))
	}
	for _, n := range s.Nodes {
		log(n.Name, n.Error, n.Log)
	}
	if f := s.LastFailure; f != nil {
		for _, n := range f.Nodes {
			log(n.Name, n.Error, n.Log)
		}
	}
	return errors.Join(errs...)
}

// printLastFailure prints which nodes have failed to run a version, and why.
func printLastFailure(out io.Writer, f *rollout.Failure) error {
	reason := ""
	if f.Reason != "" {
		reason = ", " + printable(f.Reason)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "Nodes that failed to run %s%s:\n", printable(f.Digest), reason) // Flush returns what fails
	for _, n := range f.Nodes {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", printable(n.Name), ago(&n.At, "-"), dash(n.Error))
	}
	if f.More > 0 {
		_, _ = fmt.Fprintf(w, "  and %d more\n", f.More)
	}
	return w.Flush()
}
