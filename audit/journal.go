package audit

import (
	"context"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Journal writes down what changes in a registry: for webhooks in the transaction
// that makes the change, for the log when it is durable.
//
// A push is one event; each tag that it creates or moves is another one. A
// deletion is one event for the manifest or blob and one for each tag that goes
// with it.
type Journal struct {
	rec Recorder // or nil
	out *Outbox  // or nil
}

var _ registry.Journal = (*Journal)(nil)

// NewJournal returns a Journal for a log and an outbox, each of which may be nil.
func NewJournal(rec Recorder, out *Outbox) *Journal { return &Journal{rec: rec, out: out} }

// Write puts events into the outbox.
func (j *Journal) Write(ctx context.Context, tx storage.Tx, changes []registry.Change) error {
	if j.out == nil || !j.out.wantsAny() {
		return nil
	}
	for _, e := range events(changes) {
		if err := j.out.Append(tx, e.complete(ctx, j.out.now)); err != nil {
			return err
		}
	}
	return nil
}

// Done records events, and has the outbox deliver.
func (j *Journal) Done(ctx context.Context, changes []registry.Change) {
	if j.out != nil {
		j.out.wake()
	}
	if j.rec == nil {
		return
	}
	now := time.Now() // the same for all
	for _, e := range events(changes) {
		e.Time = now
		j.rec.Record(ctx, e.complete(ctx, time.Now))
	}
}

// events are what is told of changes that were made together.
func events(changes []registry.Change) []Event {
	list := make([]Event, 0, len(changes))
	for _, c := range changes {
		e := Event{
			Kind: Delete, Outcome: OK, Repo: c.Repo, Tag: c.Tag,
			Digest: string(c.Digest), Was: string(c.Was), Media: c.MediaType, Size: c.Size,
		}
		switch c.Kind {
		case registry.PushedManifest:
			e.Kind = Push
			for _, tag := range c.Tags {
				e.addTag(tag)
			}
		case registry.MovedTag:
			e.Kind = TagMove
		case registry.DeletedManifest, registry.DeletedTag, registry.DeletedBlob:
		}
		list = append(list, e)
	}
	return list
}

// addTag notes a tag of a push.
func (e *Event) addTag(tag string) {
	switch {
	case e.Tag == "":
		e.Tag = tag
	case len(e.Tags) == 0:
		e.Tags = []string{e.Tag, tag}
	default:
		e.Tags = append(e.Tags, tag)
	}
}
