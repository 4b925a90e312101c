package images

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
)

// inTurn makes p safe for many senders.
func inTurn(p runner.Progress) runner.Progress {
	if p == nil {
		return nil
	}
	var mu sync.Mutex
	return func(m jsonstream.Message) {
		mu.Lock()
		defer mu.Unlock()
		p(m)
	}
}

// emptyProgress is the form that docker gives the state of a layer.
func emptyProgress(p runner.Progress, id, status string) {
	if p != nil {
		p(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
	}
}

// progressEvery is how often the state of a layer is told.
const progressEvery = 100 * time.Millisecond

// watch tells of a layer's way until it is done.
func watch(ctx context.Context, p runner.Progress, id string, total int64, m *meter, done <-chan struct{}) {
	if p == nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
		return
	}
	told := int32(-1)
	tell := func(now int32) {
		for ; told < now; told++ {
			switch told + 1 {
			case stageWaiting:
				if now == stageWaiting {
					emptyProgress(p, id, "Waiting")
				}
			case stageVerifying:
				emptyProgress(p, id, "Verifying Checksum")
			case stageDownloaded:
				emptyProgress(p, id, "Download complete")
			}
		}
		progress := &jsonstream.Progress{Current: m.current.Load(), Total: total}
		switch now {
		case stageDownloading:
			p(jsonstream.Message{ID: id, Status: "Downloading", Progress: progress})
		case stageExtracting:
			p(jsonstream.Message{ID: id, Status: "Extracting", Progress: &jsonstream.Progress{Current: total, Total: total}})
		}
	}
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			tell(m.stage.Load())
		case <-done:
			tell(m.stage.Load())
			return
		case <-ctx.Done():
			return
		}
	}
}

// watchLoading tells of a layer's way out of an archive until it is done.
func watchLoading(p runner.Progress, id string, total int64, m *meter, done <-chan struct{}) {
	tell := func() {
		if p != nil {
			p(jsonstream.Message{ID: id, Status: "Loading layer", Progress: &jsonstream.Progress{Current: m.current.Load(), Total: total}})
		}
	}
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			tell()
		case <-done:
			tell()
			return
		}
	}
}
