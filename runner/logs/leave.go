package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner/logs/remote"
)

const (
	// noteName is the file that says whose log it is that a container has left.
	noteName = "left.json"
	// leftTime is how long what a removed container left is offered to its server.
	leftTime = time.Hour
)

// note is what is to be known of a log without its container.
type note struct {
	Config container.LogConfig
	Source remote.Source
	Until  time.Time
}

// Leave takes over what is not sent yet of the log of a container that is being
// removed, and has ended: its files move to the Forwarder's directory, and go when
// they are sent, or after an hour.
func (f *Forwarder) Leave(id string) error {
	f.mu.Lock()
	it := f.items[id]
	if it == nil || it.gone {
		f.mu.Unlock()
		return nil
	}
	f.mu.Unlock()

	until := time.Now().Add(leftTime)
	dir := filepath.Join(f.left, fmt.Sprintf("%s-%d", id, until.UnixNano()))
	if err := it.move(dir, until); err != nil {
		f.mu.Lock()
		f.forget(it)
		f.mu.Unlock()
		return ignoreNotExist(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if it.gone { // all was sent meanwhile
		return os.RemoveAll(dir)
	}
	delete(f.items, id)
	it.key, it.ended = filepath.Base(dir), true
	f.items[it.key] = it
	f.expire(it, until)
	f.enqueue(it)
	return nil
}

// move makes the log's directory another.
func (it *item) move(dir string, until time.Time) error {
	it.moving.Lock()
	defer it.moving.Unlock()
	data, err := json.Marshal(note{it.log.Options.config, it.log.Source, until})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(it.dir, noteName), data); err != nil {
		return err
	}
	if err := durable.Rename(it.dir, dir); err != nil {
		return err
	}
	it.dir = dir
	return nil
}

// expire removes what a container left when its time is over. The mutex is held.
func (f *Forwarder) expire(it *item, until time.Time) {
	it.timer = time.AfterFunc(time.Until(until), func() {
		f.mu.Lock()
		gone := it.gone || f.closed
		if !gone {
			f.forget(it)
		}
		f.mu.Unlock()
		if gone {
			return
		}
		f.log.WarnContext(f.ctx, "what a removed container had written was not sent: its server did not take it in time", "container", it.log.Source.ID)
		it.settle()
	})
}

// settle does what is to be done with a log that has ended and is not sent any
// more: what a container left is removed, and of others what was kept for their
// server.
func (it *item) settle() {
	it.moving.RLock()
	defer it.moving.RUnlock()
	it.f.mu.Lock()
	timer := it.timer
	it.f.mu.Unlock()
	var err error
	if timer != nil {
		timer.Stop()
		err = os.RemoveAll(it.dir)
	} else if it.behind {
		err = Settle(it.dir, it.log.Options)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		it.f.log.ErrorContext(it.f.ctx, "clear a log that is sent", "container", it.log.Source.ID, "err", err)
	}
}

// takeOver goes on with what containers left while an earlier Forwarder was there.
func (f *Forwarder) takeOver() error {
	if err := durable.MkdirAll(f.left); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.left)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := f.takeOverOne(e.Name()); err != nil {
			f.log.ErrorContext(f.ctx, "send what a removed container had written", "directory", e.Name(), "err", err)
			if err := os.RemoveAll(filepath.Join(f.left, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Forwarder) takeOverOne(name string) error {
	dir := filepath.Join(f.left, name)
	data, err := os.ReadFile(filepath.Join(dir, noteName))
	if err != nil {
		return err
	}
	var n note
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	o, err := ParseOptions(n.Config, Options{})
	if err != nil {
		return err
	}
	if o.Remote == nil {
		return errors.New("its log goes to no server")
	}
	it, err := f.add(Log{ID: name, Dir: dir, Options: o, Source: n.Source}, true)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(it, n.Until)
	f.enqueue(it)
	return nil
}
