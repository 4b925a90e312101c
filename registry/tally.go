package registry

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// What repositories and quotas use is kept in the transaction that changes it. A
// tally says how far it is counted: a store may be older than its tallies, or than
// a quota. Recount counts rows in the order of their keys, in one phase after the
// other, and what changes behind the point that it has come to is not counted: it
// will be found there. So a tally that is being counted is at any time what the
// rows that are counted come to, whatever changes meanwhile.

// The phases of a tally.
const (
	phaseClear   uint8 = iota // rows of an earlier count go; only of all repositories
	phaseBytes                // holders are counted
	phaseTags                 // tags are counted
	phaseCounted              // all is
)

// tally is a row of storage.Tallies in a transaction.
type tally struct {
	storage.Tally
	quota  *quota // nil for that of all repositories
	before storage.Tally
}

// has says that a row is counted.
func (t *tally) has(phase uint8, key []byte) bool {
	return t.Phase > phase || t.Phase == phase && t.Cursor != nil && bytes.Compare(key, t.Cursor) <= 0
}

// tallies are what a transaction has changed about what is used.
type tallies struct {
	all     *tally
	quotas  map[string]*tally // by id; those that were needed
	of      map[string][]*tally
	usages  map[string]*storage.Usage // what is to be added, by repository
	recount bool                      // what is there is counted, nothing is added
}

// tally returns the tallies of the transaction. It is called before the first
// row is written that they count.
func (c *changing) tally() (*tallies, error) {
	if c.tallies != nil {
		return c.tallies, nil
	}
	row, err := storage.Tallies.Get(c, storage.TallyKey(""))
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	t := &tallies{all: &tally{Tally: row, before: row}, quotas: map[string]*tally{}, of: map[string][]*tally{}, usages: map[string]*storage.Usage{}}
	if isNotFound(err) {
		if empty, err := uncountable(c); err != nil {
			return nil, err
		} else if empty {
			t.all.Phase = phaseCounted
		}
	}
	if !bytes.Equal(row.Quotas, c.quotas().hash) {
		if err := t.adopt(c); err != nil {
			return nil, err
		}
	}
	c.tallies = t
	return t, nil
}

// uncountable says that there is nothing to count.
func uncountable(tx storage.Tx) (bool, error) {
	held, err := hasAny(storage.Holders.Scan(tx, nil, nil))
	if held || err != nil {
		return false, err
	}
	tagged, err := hasAny(storage.Tags.Scan(tx, nil, nil))
	return !tagged && err == nil, err
}

// adopt makes the tallies of quotas those of the quotas that there are. What is
// known of others is forgotten: nobody has counted for them, or will.
func (t *tallies) adopt(c *changing) error {
	set := c.quotas()
	there := map[string]bool{}
	for e, err := range storage.Tallies.Scan(c, storage.QuotaTallies(), nil) {
		if err != nil {
			return err
		}
		there[string(e.Rest)] = true
	}
	for id := range there {
		if set.byID[id] == nil {
			if err := storage.Tallies.Delete(c, storage.TallyKey(id)); err != nil {
				return err
			}
		}
	}
	empty, err := uncountable(c)
	if err != nil {
		return err
	}
	for _, q := range set.list {
		if there[q.id] {
			continue
		}
		row := storage.Tally{Phase: phaseBytes}
		if empty {
			row.Phase = phaseCounted
		}
		if row.Epoch, err = storage.Next(c, storage.CountEpochs); err != nil {
			return err
		}
		if err := storage.Tallies.Put(c, storage.TallyKey(q.id), row); err != nil {
			return err
		}
	}
	t.all.Quotas = set.hash
	return nil
}

// quota returns the tally of a quota.
func (t *tallies) quota(c *changing, q *quota) (*tally, error) {
	if known := t.quotas[q.id]; known != nil {
		return known, nil
	}
	row, err := storage.Tallies.Get(c, storage.TallyKey(q.id))
	if err != nil {
		return nil, err
	}
	found := &tally{Tally: row, before: row, quota: q}
	t.quotas[q.id] = found
	return found, nil
}

// matching returns the tallies that a repository is in.
func (t *tallies) matching(c *changing, repo string) ([]*tally, error) {
	if known, ok := t.of[repo]; ok {
		return known, nil
	}
	list := []*tally{t.all}
	for _, q := range c.quotas().matching(repo) {
		found, err := t.quota(c, q)
		if err != nil {
			return nil, err
		}
		list = append(list, found)
	}
	t.of[repo] = list
	return list, nil
}

// add adds to what a repository uses.
func (t *tallies) add(repo string, u storage.Usage) {
	sum := t.usages[repo]
	if sum == nil {
		sum = &storage.Usage{}
		t.usages[repo] = sum
	}
	sum.Bytes, sum.Own, sum.Tags = sum.Bytes+u.Bytes, sum.Own+u.Own, sum.Tags+u.Tags
}

// holding is bytes that a repository has come to hold, or holds no longer. Its row
// of storage.Holders is written, or gone.
type holding struct {
	repo, part string // repository, and DigestPart
	size       int64
	n          int64 // 1, or -1
}

// held counts what a repository has come to hold, or holds no longer.
func (t *tallies) held(c *changing, h holding) error {
	list, err := t.matching(c, h.repo)
	if err != nil {
		return err
	}
	key := storage.Key(h.part, h.repo)
	for _, one := range list {
		if one.has(phaseBytes, key) {
			err = errors.Join(err, t.countBytes(c, one, h))
		}
	}
	return err
}

func (t *tallies) countBytes(c *changing, one *tally, h holding) error {
	if one.quota != nil {
		return one.share(c, h)
	}
	others, err := t.others(c, h)
	if err != nil {
		return err
	}
	u := storage.Usage{Bytes: h.n * h.size}
	switch len(others) {
	case 0:
		u.Own = u.Bytes
		one.Bytes += u.Bytes
	case 1: // what was its own is shared, or the other way round
		t.add(others[0], storage.Usage{Own: -u.Bytes})
	}
	t.add(h.repo, u)
	one.Sum += u.Bytes
	return nil
}

// others lists up to two other repositories that hold bytes and are counted.
func (t *tallies) others(c *changing, h holding) (list []string, err error) {
	for e, err := range storage.Holders.Scan(c, storage.Key(h.part, ""), nil) {
		if err != nil {
			return nil, err
		}
		if !t.all.has(phaseBytes, e.Key) || len(list) == 2 {
			break
		}
		if other := string(e.Rest); other != h.repo {
			list = append(list, other)
		}
	}
	return list, nil
}

// share counts bytes in a quota, the same bytes once.
func (t *tally) share(c *changing, h holding) error {
	key := storage.Key(storage.NumberPart(t.Epoch), h.part)
	row, err := storage.Shares.Get(c, key)
	if err != nil && !isNotFound(err) {
		return err
	}
	was := row.N
	row.N += h.n
	if was == 0 || row.N == 0 {
		t.Bytes += h.n * h.size
	}
	if row.N == 0 {
		return storage.Shares.Delete(c, key)
	}
	return storage.Shares.Put(c, key, row)
}

// countMove counts a tag that is new, or is about to go. Its row is not written yet.
func countMove(c *changing, repo, tag, was string, is digest.Digest) error {
	var n int64
	switch {
	case was == "":
		n = 1
	case is == "":
		n = -1
	default:
		return nil
	}
	t, err := c.tally()
	if err != nil {
		return err
	}
	list, err := t.matching(c, repo)
	if err != nil {
		return err
	}
	for _, one := range list {
		if one.has(phaseTags, storage.Key(repo, tag)) {
			t.countTag(one, repo, n)
		}
	}
	return nil
}

func (t *tallies) countTag(one *tally, repo string, n int64) {
	one.Tags += n
	if one.quota == nil {
		t.add(repo, storage.Usage{Tags: n})
	}
}

// hold notes that a repository needs bytes.
func hold(tx *changing, repo, part string, size int64) error {
	key := storage.Key(part, repo)
	held, err := storage.Holders.Has(tx, key)
	if held || err != nil {
		return err
	}
	t, err := tx.tally()
	if err != nil {
		return err
	}
	return errors.Join(storage.Holders.Put(tx, key, storage.Mark{}), t.held(tx, holding{repo, part, size, 1}))
}

// release forgets that a repository needs bytes.
func release(tx *changing, repo, part string, size int64) error {
	key := storage.Key(part, repo)
	held, err := storage.Holders.Has(tx, key)
	if !held || err != nil {
		return err
	}
	t, err := tx.tally()
	if err != nil {
		return err
	}
	return errors.Join(storage.Holders.Delete(tx, key), t.held(tx, holding{repo, part, size, -1}))
}

// settle writes what the transaction has changed about what is used. It fails
// with ErrQuota if that is more than a quota allows.
func (c *changing) settle() error {
	t := c.tallies
	if t == nil {
		return nil
	}
	for _, repo := range slices.Sorted(maps.Keys(t.usages)) {
		if err := addUsage(c, repo, *t.usages[repo]); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.quotas)) {
		one := t.quotas[id]
		if !t.recount && one.Phase == phaseCounted {
			if err := one.quota.check(one.before, one.Bytes-one.before.Bytes, one.Tags-one.before.Tags); err != nil {
				return err
			}
		}
		if err := one.put(c, id); err != nil {
			return err
		}
	}
	return t.settleAll(c)
}

// settleAll writes the tally of all repositories. Every push changes it, so where several
// processes push the sums are added to counters, which no transaction meets another at.
func (t *tallies) settleAll(c *changing) error {
	a, b := &t.all.Tally, &t.all.before
	if !c.local.shared() || a.Phase != phaseCounted || b.Phase != phaseCounted {
		return t.all.put(c, "")
	}
	for name, n := range map[string]int64{
		storage.CountUsed: a.Bytes - b.Bytes, storage.CountHeld: a.Sum - b.Sum, storage.CountTags: a.Tags - b.Tags,
	} {
		if n == 0 {
			continue
		}
		if err := storage.Add(c, name, n); err != nil {
			return err
		}
	}
	a.Bytes, a.Sum, a.Tags = b.Bytes, b.Sum, b.Tags
	return t.all.put(c, "")
}

// forgetSums has what all repositories use begin at nothing.
func (c *changing) forgetSums() error {
	return errors.Join(
		storage.Counters.Delete(c, storage.Key(storage.CountUsed)),
		storage.Counters.Delete(c, storage.Key(storage.CountHeld)),
		storage.Counters.Delete(c, storage.Key(storage.CountTags)))
}

func (t *tally) put(c *changing, id string) error {
	a, b := &t.Tally, &t.before
	if a.Phase == b.Phase && a.Bytes == b.Bytes && a.Sum == b.Sum && a.Tags == b.Tags && bytes.Equal(a.Cursor, b.Cursor) && bytes.Equal(a.Quotas, b.Quotas) {
		return nil
	}
	return storage.Tallies.Put(c, storage.TallyKey(id), t.Tally)
}

func addUsage(tx storage.Tx, repo string, add storage.Usage) error {
	if add == (storage.Usage{}) {
		return nil
	}
	key := storage.Key(repo)
	row, err := storage.Usages.Get(tx, key)
	if err != nil && !isNotFound(err) {
		return err
	}
	row.Bytes, row.Own, row.Tags = row.Bytes+add.Bytes, row.Own+add.Own, row.Tags+add.Tags
	if row == (storage.Usage{}) {
		return storage.Usages.Delete(tx, key)
	}
	return storage.Usages.Put(tx, key, row)
}
