package build

import (
	"context"
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// logTo has what BuildKit and containerd's packages say go to our log. They have
// one logger in a process, and it has no other user here.
func logTo(log *slog.Logger) {
	l := logrus.StandardLogger()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	if log.Enabled(context.Background(), slog.LevelDebug) {
		l.SetLevel(logrus.DebugLevel)
	}
	l.ReplaceHooks(logrus.LevelHooks{})
	l.AddHook(logHook{log})
}

type logHook struct{ log *slog.Logger }

// Levels implements logrus.Hook.
func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook. What goes wrong in a build is told to whom it
// belongs, so the rest, such as the end of each session, is for those who debug.
func (h logHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	if e.Level < logrus.ErrorLevel {
		level = slog.LevelError
	}
	args := []any{"component", "buildkit"}
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	h.log.Log(context.Background(), level, e.Message, args...) //nolint:sloglint // it is BuildKit's
	return nil
}
