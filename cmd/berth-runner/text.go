package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/berth-registry/berth/internal/cli"
)

// printJSON writes v for machines.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printable keeps what others have written from commanding the terminal.
func printable(s string) string { return cli.Printable(s) }

// dash stands for what is empty in a table.
func dash(s string) string { return cmp.Or(printable(s), "-") }

// moment is a time in a table.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// table writes aligned rows, the first of which is the head. What others have named
// does not command the terminal, and stays in its cell.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, row := range rows {
		if i > 0 {
			for j, cell := range row {
				row[j] = strings.ReplaceAll(printable(cell), "\t", " ")
			}
		}
		_, _ = fmt.Fprintln(t, strings.Join(row, "\t")) // Flush returns what fails
	}
	return t.Flush()
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// coloured says whether to use colours on w: see no-color.org.
func coloured(w io.Writer) bool { return isTerminal(w) && os.Getenv("NO_COLOR") == "" }

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// colour puts s into a colour, if there are any.
func colour(on bool, c, s string) string {
	if !on {
		return s
	}
	return c + s + plain
}
