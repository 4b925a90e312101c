package replicating

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// item is what a row is about: a tag or a manifest of a repository, as in
// registry.Reference.
type item struct {
	repo string
	ref  registry.Reference
}

// The last part of a row's key is one of these, and a tag or DigestPart.
const (
	partTag      = "t"
	partManifest = "m"
)

func tagOf(repo, tag string) item { return item{repo, registry.Reference{Tag: tag}} }
func manifestOf(repo string, d digest.Digest) item {
	return item{repo, registry.Reference{Digest: d}}
}

func (i item) String() string {
	if i.ref.Tag != "" {
		return i.repo + ":" + i.ref.Tag
	}
	return i.repo + "@" + string(i.ref.Digest)
}

func (i item) part() string {
	if i.ref.Tag != "" {
		return partTag + i.ref.Tag
	}
	return partManifest + storage.DigestPart(i.ref.Digest)
}

// readItem reads the repository and the last part of a key.
func readItem(b []byte) (item, error) {
	repo, part, ok := bytes.Cut(b, []byte{0})
	if ok && len(part) > 1 {
		switch string(part[:1]) {
		case partTag:
			return tagOf(string(repo), string(part[1:])), nil
		case partManifest:
			d, rest, err := storage.CutDigest(part[1:])
			if err == nil && len(rest) == 0 {
				return manifestOf(string(repo), d), nil
			}
		}
	}
	return item{}, fmt.Errorf("damaged key: %x is neither a tag nor a manifest", b)
}

// queue is what waits for a target, as a transaction sees it.
type queue struct {
	tx   storage.Tx
	name string // of the rule
}

// row is what waits.
type row struct {
	item
	storage.Replication
}

// Names of counters, to which that of the rule is added.
const (
	countPending = "replication-pending:"
	countBroken  = "replication-broken:" // of those that wait
	countDone    = "replication-done:"
	countBytes   = "replication-bytes:"
)

func (q queue) pending() (int64, error) { return storage.Total(q.tx, countPending+q.name) }

func (q queue) key(i item) []byte { return storage.Key(q.name, i.repo, i.part()) }

func (q queue) dueKey(i item, due int64) []byte {
	return storage.Key(q.name, storage.NumberPart(due), i.repo, i.part())
}

// get returns a row; false if there is none.
func (q queue) get(i item) (row, bool, error) {
	v, err := storage.Replications.Get(q.tx, q.key(i))
	if errors.Is(err, storage.ErrNotFound) {
		return row{item: i}, false, nil
	}
	return row{i, v}, err == nil, err
}

// put replaces a row that was the same before but for what changes it.
func (q queue) put(r row, change func(*storage.Replication)) error {
	was := r.Replication
	change(&r.Replication)
	if was.Broken != r.Broken {
		delta := int64(1)
		if was.Broken {
			delta = -1
		}
		if err := storage.Add(q.tx, countBroken+q.name, delta); err != nil {
			return err
		}
	}
	if was.Due != r.Due {
		if err := errors.Join(
			storage.ReplicationsDue.Delete(q.tx, q.dueKey(r.item, was.Due)),
			storage.ReplicationsDue.Put(q.tx, q.dueKey(r.item, r.Due), storage.Mark{})); err != nil {
			return err
		}
	}
	return storage.Replications.Put(q.tx, q.key(r.item), r.Replication)
}

// add notes that something has changed, which is due at a time. What waits already is
// not due earlier for it, unless it was given up for long.
func (q queue) add(i item, deleted bool, now, due time.Time) error {
	r, there, err := q.get(i)
	if err != nil {
		return err
	}
	if there {
		return q.put(r, func(v *storage.Replication) {
			v.Deleted = deleted
			v.Changes++
			if v.Broken && v.Taken == "" {
				v.Due = min(v.Due, max(due.UnixMicro(), v.Failed.Add(brokenPause).UnixMicro()))
			}
		})
	}
	if err := storage.Add(q.tx, countPending+q.name, 1); err != nil {
		return err
	}
	v := storage.Replication{Deleted: deleted, Queued: now, Due: due.UnixMicro()}
	return errors.Join(
		storage.ReplicationsDue.Put(q.tx, q.dueKey(i, v.Due), storage.Mark{}),
		storage.Replications.Put(q.tx, q.key(i), v))
}

// want notes something that somebody waits for: it is due now, whatever has failed.
func (q queue) want(i item, deleted bool, now time.Time) error {
	if err := q.add(i, deleted, now, now); err != nil {
		return err
	}
	r, _, err := q.get(i)
	if err != nil || r.Taken != "" {
		return err
	}
	return q.put(r, func(v *storage.Replication) { v.Due, v.Tries, v.Broken = now.UnixMicro(), 0, false })
}

// brokenPause is for how long something that cannot be replicated is left alone at
// least, however often it changes.
const brokenPause = time.Minute

// first is what is due first, and when; false if nothing waits.
func (q queue) first() (i item, due time.Time, some bool, err error) {
	prefix := storage.Key(q.name, "")
	for row, err := range q.tx.Scan(storage.ReplicationsDue.Name(), prefix, nil) {
		if err != nil {
			return i, due, false, err
		}
		i, due, err = readDue(row.Key[len(prefix):])
		return i, due, err == nil, err
	}
	return i, due, false, nil
}

// readDue reads a key of ReplicationsDue behind the name.
func readDue(b []byte) (i item, due time.Time, err error) {
	us, err := storage.CutNumber(b)
	if err != nil || len(b) < 9 {
		return i, due, errors.Join(err, errDamagedKey)
	}
	i, err = readItem(b[9:])
	return i, time.UnixMicro(us), err
}

var errDamagedKey = errors.New("damaged key of what is due to be replicated")

// take takes what is due first until a time, in which nobody else does; false if
// nothing is due.
func (q queue) take(now, until time.Time) (r row, some bool, err error) {
	prefix := storage.Key(q.name, "")
	rows, err := storage.Take(q.tx, storage.ReplicationsDue.Name(), prefix, nil, 1)
	if err != nil || len(rows) == 0 {
		return r, false, err
	}
	i, due, err := readDue(rows[0].Key[len(prefix):])
	if err != nil || due.After(now) {
		return r, false, err
	}
	r, there, err := q.get(i)
	if err != nil {
		return r, false, err
	}
	if !there {
		return r, false, errDamagedKey
	}
	err = q.put(r, func(v *storage.Replication) { v.Taken, v.Due = rand.Text(), until.UnixMicro() })
	if err != nil {
		return r, false, err
	}
	r, _, err = q.get(i)
	return r, true, err
}

// held returns a row as it is now, if who took it still has it.
func (q queue) held(r row) (now row, held bool, err error) {
	now, there, err := q.get(r.item)
	return now, there && now.Taken == r.Taken, err
}

// extend moves the end of the time for which a row was taken.
func (q queue) extend(r row, until time.Time) (held bool, err error) {
	now, held, err := q.held(r)
	if err != nil || !held {
		return false, err
	}
	return true, q.put(now, func(v *storage.Replication) { v.Due = until.UnixMicro() })
}

// done strikes a row off, unless it has changed since it was taken: then it is due
// again at a time.
func (q queue) done(r row, did outcome, now, again time.Time) error {
	cur, held, err := q.held(r)
	if err != nil || !held {
		return err
	}
	if did.asked {
		if err := q.sum(did.sent, now); err != nil {
			return err
		}
	}
	if cur.Changes != r.Changes {
		return q.put(cur, func(v *storage.Replication) {
			*v = storage.Replication{Deleted: v.Deleted, Queued: v.Queued, Changes: v.Changes, Due: again.UnixMicro()}
		})
	}
	return q.drop(cur)
}

// lastEvery is how exactly it is known when something was done last: more would have
// those that work at the same time wait for each other.
const lastEvery = time.Minute

// sum adds to what was done.
func (q queue) sum(sent int64, now time.Time) error {
	if err := errors.Join(storage.Add(q.tx, countDone+q.name, 1), storage.Add(q.tx, countBytes+q.name, sent)); err != nil {
		return err
	}
	s, err := storage.Replicated.Get(q.tx, storage.Key(q.name))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err == nil && now.Sub(s.Last) < lastEvery {
		return nil
	}
	return storage.Replicated.Put(q.tx, storage.Key(q.name), storage.ReplicationSum{Last: now})
}

func (q queue) drop(r row) error {
	err := storage.Add(q.tx, countPending+q.name, -1)
	if err == nil && r.Broken {
		err = storage.Add(q.tx, countBroken+q.name, -1)
	}
	return errors.Join(err,
		storage.ReplicationsDue.Delete(q.tx, q.dueKey(r.item, r.Due)),
		storage.Replications.Delete(q.tx, q.key(r.item)))
}

// giveBack ends that a row is taken: it is due at a time. change changes more of it.
func (q queue) giveBack(r row, due time.Time, change func(*storage.Replication)) error {
	cur, held, err := q.held(r)
	if err != nil || !held {
		return err
	}
	return q.put(cur, func(v *storage.Replication) {
		v.Taken, v.Due = "", due.UnixMicro()
		change(v)
	})
}

// batch is how many rows a transaction looks at.
const batch = 500

// rows returns up to most rows behind a key, and the key of the last.
func (q queue) rows(after []byte, most int) (list []row, last []byte, err error) {
	prefix := storage.Key(q.name, "")
	for e, err := range storage.Replications.Scan(q.tx, prefix, after) {
		if err != nil {
			return nil, nil, err
		}
		i, err := readItem(e.Rest)
		if err != nil {
			return nil, nil, err
		}
		list, last = append(list, row{i, e.Value}), bytes.Clone(e.Key)
		if len(list) == most {
			break
		}
	}
	return list, last, nil
}

// free makes those of up to batch rows behind a key due that which picks, and returns
// the key of the last; nil if there are no more.
func (q queue) free(after []byte, now time.Time, which func(row) bool) (last []byte, freed int, err error) {
	list, last, err := q.rows(after, batch)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range list {
		if !which(r) {
			continue
		}
		freed++
		if err := q.put(r, func(v *storage.Replication) { v.Due, v.Taken, v.Tries = now.UnixMicro(), "", 0 }); err != nil {
			return nil, 0, err
		}
	}
	if len(list) < batch {
		last = nil
	}
	return last, freed, nil
}

// clear removes up to batch rows, and says whether there may be more.
func (q queue) clear() (more bool, err error) {
	list, _, err := q.rows(nil, batch)
	if err != nil {
		return false, err
	}
	for _, r := range list {
		if err := q.drop(r); err != nil {
			return false, err
		}
	}
	if len(list) == batch {
		return true, nil
	}
	return false, errors.Join(
		storage.Counters.Delete(q.tx, storage.Key(countPending+q.name)),
		storage.Counters.Delete(q.tx, storage.Key(countBroken+q.name)),
		storage.Counters.Delete(q.tx, storage.Key(countDone+q.name)),
		storage.Counters.Delete(q.tx, storage.Key(countBytes+q.name)),
		storage.Replicated.Delete(q.tx, storage.Key(q.name)))
}

// waitingFor finds the first rule, behind those whose names are up to after, that
// something waits for or that has done something.
func waitingFor(tx storage.Tx, after string) (name string, err error) {
	var from []byte
	if after != "" {
		from = []byte(after + "\x01") // behind all keys of that rule
	}
	for e, err := range storage.Replications.Scan(tx, nil, from) {
		if err != nil {
			return "", err
		}
		first, _, _ := bytes.Cut(e.Key, []byte{0})
		name = string(first)
		break
	}
	if from != nil {
		from = []byte(after)
	}
	for e, err := range storage.Replicated.Scan(tx, nil, from) {
		if err != nil {
			return "", err
		}
		if s := string(e.Key); name == "" || s < name {
			name = s
		}
		break
	}
	return name, nil
}
