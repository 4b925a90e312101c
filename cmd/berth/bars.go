package main

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"golang.org/x/term"
)

// newBars has bars drawn on w, if that is a terminal and quiet is not set; else it
// returns nil.
func newBars(w io.Writer, quiet bool, options ...mpb.ContainerOption) *mpb.Progress {
	if quiet || !isTerminal(w) {
		return nil
	}
	return mpb.New(append(options, mpb.WithOutput(w), mpb.WithWidth(64))...)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
