// Package daemon is what the servers have in common: their log, how they listen,
// and what they tell operators.
package daemon

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/berth-registry/berth/internal/settings"
)

// NewLog makes a log that writes to out. Its level is level, so that it can be
// changed. The automatic format is text if stderr is a terminal.
func NewLog(format settings.LogFormat, level slog.Leveler, out, stderr io.Writer) (log *slog.Logger, isJSON bool) {
	f, ok := stderr.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	options := &slog.HandlerOptions{Level: level}
	if format == settings.LogText || format == settings.LogAuto && terminal {
		return slog.New(slog.NewTextHandler(out, options)), false
	}
	return slog.New(slog.NewJSONHandler(out, options)), true
}
