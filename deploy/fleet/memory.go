package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
)

// memory is what is remembered of a tag over restarts.
type memory struct {
	Ref    string
	Failed failure
	// Trying is what was tried and has neither failed by itself nor succeeded, and how
	// often.
	Trying digest.Digest
	Tries  int
}

// failure is why a version failed here.
type failure struct {
	Digest  digest.Digest
	Error   string
	Log     []string
	Attempt int64 // of the rollout
	At      time.Time
}

func (f *Follower) path() string { return filepath.Join(f.o.Dir, f.o.Stack+".json") }

// recall returns what is remembered of this tag. What cannot be read is begun anew.
func (f *Follower) recall(ctx context.Context) memory {
	m := memory{Ref: f.o.Ref}
	data, err := os.ReadFile(f.path())
	if err == nil {
		var kept memory
		if err = json.Unmarshal(data, &kept); err == nil && kept.Ref == f.o.Ref {
			return kept
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.o.Log.WarnContext(ctx, "what has failed before is not known", "error", err)
	}
	return m
}

// remember has a change of the memory on disk when it returns. Without a disk it still
// holds until the runner ends.
func (l *loop) remember(ctx context.Context) {
	data, err := json.Marshal(l.memory)
	if err == nil {
		err = durable.MkdirAll(l.o.Dir)
	}
	if err == nil {
		err = durable.WriteFile(l.path(), data)
	}
	if err != nil {
		l.o.Log.ErrorContext(ctx, "cannot remember how a version went: it may be tried again after a restart", "error", err)
	}
}
