package registry

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/berth-registry/berth/storage"
)

// Usage is what a repository holds: its manifests, and the blobs that can be read
// in it, until they are collected. Each digest counts once.
type Usage struct {
	Repo      string
	Bytes     int64 // that it holds
	Own       int64 // of these, bytes that no other repository holds: what is free without it
	Tags      int64
	Manifests int64
}

// Shared is how many bytes other repositories hold, too.
func (u Usage) Shared() int64 { return u.Bytes - u.Own }

// Usages are sums over what all repositories hold.
type Usages struct {
	Counted bool  // false while it is still being counted: all is too low then
	Sum     int64 // bytes of each repository, together
	Bytes   int64 // of these, each digest once
	Tags    int64
}

// QuotaUsage is how much of a quota is used.
type QuotaUsage struct {
	Name     string
	Counted  bool  // false while it is still being counted: what is used is too low, and limits nothing
	Bytes    int64 // used, each digest once
	Tags     int64 // used
	MaxBytes int64 // 0 for any number
	MaxTags  int   // 0 for any number
}

// Usage lists what each repository holds that holds anything, by name, behind the
// name after. It is kept, not computed.
func (l *Local) Usage(ctx context.Context, after string) iter.Seq2[Usage, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(Usage) bool) error {
		for e, err := range storage.Usages.Scan(tx, nil, []byte(after)) {
			if err != nil {
				return err
			}
			u, err := usage(tx, string(e.Key), e.Value)
			if err != nil {
				return err
			}
			if !yield(u) {
				break
			}
		}
		return nil
	})
}

// UsageOf says what a repository holds, or fails with ErrNameUnknown if that is
// nothing.
func (l *Local) UsageOf(ctx context.Context, repo string) (u Usage, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Usages.Get(tx, storage.Key(repo))
		if isNotFound(err) {
			return ErrNameUnknown.With("repository %s holds nothing", repo)
		}
		if err == nil {
			u, err = usage(tx, repo, row)
		}
		return err
	})
	return u, err
}

func usage(tx storage.Tx, repo string, row storage.Usage) (Usage, error) {
	known, err := storage.Repos.Get(tx, storage.Key(repo))
	if isNotFound(err) { // it has blobs, and no manifest yet
		err = nil
	}
	return Usage{Repo: repo, Bytes: row.Bytes, Own: row.Own, Tags: row.Tags, Manifests: known.Manifests}, err
}

// Usages returns the sums, which are kept, not computed.
func (l *Local) Usages(ctx context.Context) (u Usages, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, counted, err := readTally(tx, "")
		if err != nil {
			return err
		}
		u = Usages{Counted: counted, Sum: row.Sum, Bytes: row.Bytes, Tags: row.Tags}
		for name, sum := range map[string]*int64{storage.CountHeld: &u.Sum, storage.CountUsed: &u.Bytes, storage.CountTags: &u.Tags} {
			n, err := storage.Total(tx, name)
			if err != nil {
				return err
			}
			*sum += n
		}
		return nil
	})
	return u, err
}

// readTally reads the tally of a quota, or of all repositories, and says whether it
// is counted.
func readTally(tx storage.Tx, id string) (row storage.Tally, counted bool, err error) {
	row, err = storage.Tallies.Get(tx, storage.TallyKey(id))
	if isNotFound(err) { // nothing has changed yet
		counted, err = uncountable(tx)
		return row, counted, err
	}
	return row, row.Phase == phaseCounted, err
}

// QuotaUsage lists the quotas by name, and how much of each is used.
func (l *Local) QuotaUsage(ctx context.Context) (list []QuotaUsage, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		list = nil
		for _, q := range l.quotas.Load().list {
			if q.cache {
				continue
			}
			row, counted, err := readTally(tx, q.id)
			if err != nil {
				return err
			}
			list = append(list, QuotaUsage{q.Name, counted, row.Bytes, row.Tags, max(0, q.Bytes), max(0, q.Tags)})
		}
		return nil
	})
	slices.SortFunc(list, func(a, b QuotaUsage) int { return cmp.Compare(a.Name, b.Name) })
	return list, err
}
