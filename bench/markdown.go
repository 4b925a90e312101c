package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// busy is the load of a core from which it is said that a machine had other work
// than the benchmark.
const busy = 0.5

// Markdown returns the table that is shown to people.
func (r *report) Markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Measured on %s: %s of %s, %d GB of memory, Linux %s, %s", r.Date[:len("2006-01-02")],
		plural(m.Cores, "core"), m.CPU, (m.MemoryMB+512)/1024, m.Kernel, m.Filesystem)
	for _, name := range slices.Sorted(maps.Keys(r.Peers)) {
		fmt.Fprintf(&b, ", %s %s", name, r.Peers[name])
	}
	fmt.Fprintf(&b, ". Client and server share the machine. Medians of %s, least and greatest in brackets.\n", plural(r.Runs, "run"))
	if r.part == partRunner {
		b.WriteString(runnerNote)
	}
	if m.Load > busy*float64(m.Cores) {
		fmt.Fprintf(&b, "\nThe machine was busy with other work (load %s): it disturbs these figures.\n", format(m.Load))
	}
	r.earlier(&b)
	if r.Quick {
		b.WriteString("\nA smoke test with tiny sizes: these figures mean nothing.\n")
	}
	b.WriteString("\n| work | berth | compared with | ratio | goal | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, f := range r.Figures {
		for _, v := range f.Verdicts {
			if !f.Growth {
				f.row(&b, v)
			}
		}
	}
	r.growth(&b)
	return b.String()
}

// earlier says of which works the figures are those of an earlier run.
func (r *report) earlier(b *strings.Builder) {
	days := map[string][]string{}
	for _, f := range r.Figures {
		if f.Date == "" {
			continue
		}
		if day := f.Date[:len(time.DateOnly)]; !slices.Contains(days[day], f.Work) {
			days[day] = append(days[day], f.Work)
		}
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		fmt.Fprintf(b, "\nThe figures of %s are those of an earlier run, on %s.\n", strings.Join(days[day], ", "), day)
	}
}

func (f *figure) row(b *strings.Builder, v verdict) {
	other, ratio, met := "", "", ""
	if v.To != "" {
		other = f.cell(v.To)
		ratio = v.String()
	}
	if v.Met != nil {
		met = map[bool]string{true: "met", false: "**missed**"}[*v.Met]
	}
	fmt.Fprintf(b, "| %s: %s | %s | %s | %s | %s | %s |\n", f.Work, f.Name, strings.TrimPrefix(f.cell(v.Of), nameBerth+": "), other, ratio, v.Goal, met)
}

func (f *figure) cell(of string) string {
	return fmt.Sprintf("%s: %s %s", of, f.of(of).summary, f.Unit)
}

// growth writes a table with a column for each number of manifests.
func (r *report) growth(b *strings.Builder) {
	first := true
	for _, f := range r.Figures {
		if !f.Growth {
			continue
		}
		if first {
			b.WriteString("\nHow the cost of one request grows with the manifests in the registry, one client:\n\n| manifests |")
			for _, s := range f.Series {
				fmt.Fprintf(b, " %s |", s.Of)
			}
			fmt.Fprintf(b, " last to first |\n|%s\n", strings.Repeat(" --- |", len(f.Series)+2))
			first = false
		}
		fmt.Fprintf(b, "| %s |", f.Name)
		for _, s := range f.Series {
			fmt.Fprintf(b, " %s %s |", s.summary, f.Unit)
		}
		for _, v := range f.Verdicts {
			fmt.Fprintf(b, " %s |", v.summary)
		}
		b.WriteString("\n")
	}
}

func (s summary) String() string {
	if s.Min == s.Max {
		return format(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", format(s.Median), format(s.Min), format(s.Max))
}

// format shows a value with three significant digits at least.
func format(x float64) string {
	switch a := math.Abs(x); {
	case a >= 100:
		return thousands(int(math.Round(x)))
	case a >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(x, 'f', 2, 64)
	default:
		return strconv.FormatFloat(x, 'f', 3, 64)
	}
}

// thousands shows a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func megabytes(n int64) string { return fmt.Sprintf("%s MB", thousands(int(n/mb))) }

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
