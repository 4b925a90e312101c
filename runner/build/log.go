package build

import (
	"context"
	"io"
	"log/slog"

	"github.com/moby/buildkit/util/bklog"
	"github.com/sirupsen/logrus"
)

// withLog has what BuildKit says in a context go to our log. What it says in
// none goes to the standard error, which is where our log is.
func withLog(ctx context.Context, log *slog.Logger) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.DebugLevel)
	if !log.Enabled(ctx, slog.LevelDebug) {
		l.SetLevel(logrus.WarnLevel)
	}
	l.AddHook(logHook{log})
	return bklog.WithLogger(ctx, logrus.NewEntry(l))
}

type logHook struct{ log *slog.Logger }

// Levels implements logrus.Hook.
func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook. Most of what BuildKit warns of is the failure of
// somebody's build, of which he is told: it is of interest to who debugs.
func (h logHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	if e.Level <= logrus.ErrorLevel {
		level = slog.LevelInfo
	}
	args := []any{"component", "buildkit"}
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	h.log.Log(context.Background(), level, e.Message, args...)
	return nil
}
