package registry

import (
	"context"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Queue is what Collect has before it.
type Queue struct {
	Reviews int       // that are queued, due or not
	More    bool      // whether there are more, which were not counted
	Next    time.Time // when the first is due; zero if there is none
}

// Queue looks at what is queued, and counts up to most.
func (l *Local) Queue(ctx context.Context, most int) (q Queue, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		q = Queue{}
		for row, err := range tx.Scan(storage.Reviews.Name(), nil, nil) {
			if err != nil {
				return err
			}
			if q.Reviews == most {
				q.More = true
				break
			}
			if q.Reviews++; q.Reviews > 1 {
				continue
			}
			due, err := storage.CutNumber(row.Key)
			if err != nil {
				return err
			}
			q.Next = time.UnixMicro(due)
		}
		return ctx.Err()
	})
	return q, err
}
