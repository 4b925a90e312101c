package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// recountBatch is how many rows are counted in one transaction: few enough that a
// push does not wait for them.
const recountBatch = 256

// Recount counts what is not counted yet: of a store that is older than the counts,
// and of quotas that are new. It can be ended at any time, and goes on from there;
// if all is counted it costs next to nothing. Pushes and deletes go on meanwhile.
func (l *Local) Recount(ctx context.Context) error {
	for more := true; more; {
		err := l.change(ctx, func(tx *changing) (err error) {
			more, err = tx.recount()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Uncount has everything counted anew by Recount. It is for a store whose rows
// were written by something else than a Local.
func (l *Local) Uncount(ctx context.Context) error {
	return l.change(ctx, func(tx *changing) error {
		t, err := tx.tally()
		if err != nil {
			return err
		}
		t.all.Tally = storage.Tally{} // with the hash of no quotas: others are forgotten, and come back
		for id := range tx.quotas().byID {
			if err := storage.Tallies.Delete(tx, storage.TallyKey(id)); err != nil {
				return err
			}
		}
		return errors.Join(tx.forgetSums(), storage.Tallies.Put(tx, storage.TallyKey(""), storage.Tally{}))
	})
}

// recount does one step, and says whether there may be more.
func (c *changing) recount() (more bool, err error) {
	t, err := c.tally()
	if err != nil {
		return false, err
	}
	t.recount = true
	group, err := t.uncounted(c)
	switch {
	case err != nil:
		return false, err
	case len(group) == 0:
		return c.clearShares()
	case group[0].Phase == phaseClear:
		more, err = clearRows(c, storage.Usages.Name(), nil)
		if !more && err == nil {
			t.all.Tally = storage.Tally{Phase: phaseBytes, Quotas: t.all.Quotas}
			err = c.forgetSums()
		}
		return true, err
	case group[0].Phase == phaseBytes:
		err = recountTable(group, storage.Holders, c, func(key []byte) error { return t.recountHolder(c, group, key) })
	default:
		err = recountTable(group, storage.Tags, c, func(key []byte) error { return t.recountTag(c, group, key) })
	}
	return true, err
}

// uncounted lists the tallies that are the least counted, all to the same point.
func (t *tallies) uncounted(c *changing) (group []*tally, err error) {
	list := []*tally{t.all}
	for _, q := range c.quotas().list {
		one, err := t.quota(c, q)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	for _, one := range list {
		if one.Phase == phaseCounted {
			continue
		}
		order := -1
		if len(group) > 0 {
			order = cmp.Or(cmp.Compare(one.Phase, group[0].Phase), bytes.Compare(one.Cursor, group[0].Cursor))
		}
		switch {
		case order < 0:
			group = []*tally{one}
		case order == 0:
			group = append(group, one)
		}
	}
	return group, nil
}

// recountTable counts rows of a table behind the point that a group has come to.
func recountTable[V any](group []*tally, table storage.Table[V], c *changing, count func(key []byte) error) error {
	var keys [][]byte
	for row, err := range c.Scan(table.Name(), nil, group[0].Cursor) {
		if err != nil {
			return err
		}
		keys = append(keys, slices.Clone(row.Key))
		if len(keys) == recountBatch {
			break
		}
	}
	for _, key := range keys {
		for _, one := range group {
			one.Cursor = key
		}
		if err := count(key); err != nil {
			return err
		}
	}
	if len(keys) < recountBatch {
		for _, one := range group {
			one.Phase, one.Cursor = one.Phase+1, nil
		}
	}
	return nil
}

// members are those of a group that a repository is in.
func (t *tallies) members(c *changing, group []*tally, repo string) ([]*tally, error) {
	list, err := t.matching(c, repo)
	return slices.DeleteFunc(slices.Clone(list), func(one *tally) bool { return !slices.Contains(group, one) }), err
}

func (t *tallies) recountHolder(c *changing, group []*tally, key []byte) error {
	d, rest, err := storage.CutDigest(key)
	if err != nil {
		return err
	}
	repo, part := string(rest[1:]), storage.DigestPart(d)
	size, err := heldSize(c, repo, d)
	if err != nil {
		return err
	}
	list, err := t.members(c, group, repo)
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := t.countBytes(c, one, holding{repo, part, size, 1}); err != nil {
			return err
		}
	}
	return nil
}

// heldSize is how many bytes a repository holds as d.
func heldSize(tx storage.Tx, repo string, d digest.Digest) (int64, error) {
	key := storage.Key(repo, storage.DigestPart(d))
	link, err := storage.Links.Get(tx, key)
	if !isNotFound(err) {
		return link.Size, err
	}
	row, err := storage.Manifests.Get(tx, key)
	if isNotFound(err) {
		err = nil // the row is of no use to anybody
	}
	return row.Size, err
}

func (t *tallies) recountTag(c *changing, group []*tally, key []byte) error {
	repo, _, _ := bytes.Cut(key, []byte{0})
	list, err := t.members(c, group, string(repo))
	for _, one := range list {
		t.countTag(one, string(repo), 1)
	}
	return err
}

// clearShares removes rows of quotas that are gone, or were counted anew.
func (c *changing) clearShares() (more bool, err error) {
	live := map[int64]bool{}
	for e, err := range storage.Tallies.Scan(c, storage.QuotaTallies(), nil) {
		if err != nil {
			return false, err
		}
		live[e.Value.Epoch] = true
	}
	var after []byte
	for {
		epoch, found, err := firstEpoch(c, after)
		if !found || err != nil {
			return false, err
		}
		if !live[epoch] {
			_, err := clearRows(c, storage.Shares.Name(), []byte(storage.NumberPart(epoch)))
			return true, err
		}
		after = []byte(storage.NumberPart(epoch + 1)) // sorts before the rows of that
	}
}

// firstEpoch is the epoch of the first row of shares behind a key.
func firstEpoch(tx storage.Tx, after []byte) (epoch int64, found bool, err error) {
	for e, err := range tx.Scan(storage.Shares.Name(), nil, after) {
		if err != nil {
			return 0, false, err
		}
		epoch, err = storage.CutNumber(e.Key)
		return epoch, err == nil, err
	}
	return 0, false, nil
}

// clearRows deletes some rows, and says whether there may be more.
func clearRows(tx storage.Tx, table string, prefix []byte) (more bool, err error) {
	var keys [][]byte
	for row, err := range tx.Scan(table, prefix, nil) {
		if err != nil {
			return false, err
		}
		keys = append(keys, slices.Clone(row.Key))
		if len(keys) == recountBatch {
			break
		}
	}
	for _, key := range keys {
		if err := tx.Delete(table, key); err != nil {
			return false, err
		}
	}
	return len(keys) == recountBatch, nil
}
