package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Quota limits what repositories hold together.
type Quota struct {
	// Name says which repositories it is of: if Match changes, so must Name.
	Name string
	// Match says whether a repository is in it. It is asked within transactions.
	Match func(repo string) bool
	// Bytes that the repositories may hold, each digest counted once; 0 for any
	// number.
	Bytes int64
	// Tags that they may have; 0 for any number.
	Tags int
}

// quota is a Quota with the key of its tally.
type quota struct {
	Quota
	id    string
	cache bool // it only counts what a Cache holds
}

// quotaSet is all the quotas that there are, and the caches.
type quotaSet struct {
	list   []*quota
	byID   map[string]*quota
	hash   []byte // of their ids; nil without any
	caches cacheSet
}

// wantedQuotas are what a quotaSet is made of.
type wantedQuotas struct {
	mu     sync.Mutex
	quotas []Quota
	caches cacheSet
}

// SetQuotas sets which quotas hold from now on. Over one of them what adds to it
// fails with ErrQuota; what takes from it never does. Of quotas with one name the
// tighter limits hold.
//
// A quota with a new name is counted by Recount, and does not limit anything
// before it is counted. All that change a store must have the same quotas and
// caches: a Local that has not forgets the counts of the others.
//
// What caches hold is in no quota (see SetCaches): a pull through a mirror must not
// fail because somebody has pushed much, nor a push because much was pulled.
func (l *Local) SetQuotas(quotas []Quota) {
	l.wanted.mu.Lock()
	defer l.wanted.mu.Unlock()
	l.wanted.quotas = quotas
	l.quotas.Store(newQuotaSet(quotas, l.wanted.caches))
}

func newQuotaSet(quotas []Quota, caches cacheSet) *quotaSet {
	set := &quotaSet{byID: map[string]*quota{}, caches: caches}
	for _, q := range quotas {
		match := q.Match
		q.Match = func(repo string) bool { return match(repo) && !caches.has(repo) }
		set.add(q, q.Name+caches.name(), false)
	}
	for _, c := range caches {
		set.add(Quota{Name: c.Prefix, Match: func(repo string) bool { return caches.in(repo, c.Prefix) }}, "\x00"+c.Prefix+caches.name(), true)
	}
	if len(set.list) > 0 {
		var ids []string
		for _, q := range set.list {
			ids = append(ids, q.id)
		}
		slices.Sort(ids)
		sum := sha256.Sum256([]byte(strings.Join(ids, " ")))
		set.hash = sum[:]
	}
	return set
}

// add adds a quota whose tally goes by a name.
func (s *quotaSet) add(q Quota, name string, cache bool) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:16])
	if same := s.byID[id]; same != nil {
		same.Bytes, same.Tags = tighter(same.Bytes, q.Bytes), tighter(same.Tags, q.Tags)
		return
	}
	s.byID[id] = &quota{q, id, cache}
	s.list = append(s.list, s.byID[id])
}

func tighter[N int | int64](a, b N) N {
	if a <= 0 || b > 0 && b < a {
		return b
	}
	return a
}

// quotas are the same ones all through the transaction.
func (c *changing) quotas() *quotaSet {
	if c.quotaSet == nil {
		c.quotaSet = c.local.quotas.Load()
	}
	return c.quotaSet
}

// matching lists the quotas that a repository is in.
func (s *quotaSet) matching(repo string) (list []*quota) {
	for _, q := range s.list {
		if q.Match(repo) {
			list = append(list, q)
		}
	}
	return list
}

// check fails with ErrQuota if so many bytes and tags more than are used are over
// the quota. Who adds nothing is let through, even if it is over.
func (q *quota) check(used storage.Tally, bytes, tags int64) error {
	if limit := q.Bytes; limit > 0 && bytes > 0 && bytes > limit-used.Bytes {
		return ErrQuota.With("quota %s: %s of %s used, this push needs %s more", q.Name, bytesText(used.Bytes), bytesText(limit), bytesText(bytes))
	}
	if limit := int64(q.Tags); limit > 0 && tags > 0 && tags > limit-used.Tags {
		return ErrQuota.With("quota %s: %d of %d tags used, this push needs %d more", q.Name, used.Tags, limit, tags)
	}
	return nil
}

// bytesText writes a number of bytes for people, in units of 1000 bytes.
func bytesText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	unit := 0
	for ; v >= 999.95 && unit < len("kMGTPE"); unit++ {
		v /= 1000
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + "kMGTPE"[unit-1:unit] + "B"
}

// room fails with ErrQuota if a push to a repository is surely over a quota, so
// that its bytes need not be sent or stored. The transaction that stores it decides.
// Bytes whose digest is not known yet, as d is empty, count as new.
func (l *Local) room(ctx context.Context, repo string, d digest.Digest, size int64, tags ...string) error {
	set := l.quotas.Load()
	list := set.matching(repo)
	if len(list) == 0 || set.caches.has(repo) {
		return nil
	}
	return l.meta.View(ctx, func(tx storage.Tx) error {
		added, err := newTags(tx, repo, tags)
		if err != nil {
			return err
		}
		for _, q := range list {
			used, counted, err := readTally(tx, q.id)
			if err != nil {
				return err
			}
			if !counted {
				continue
			}
			needs := size
			if d != "" {
				held, err := storage.Shares.Has(tx, storage.Key(storage.NumberPart(used.Epoch), storage.DigestPart(d)))
				if err != nil {
					return err
				}
				if held {
					needs = 0
				}
			}
			if err := q.check(used, needs, added); err != nil {
				return err
			}
		}
		return nil
	})
}

// newTags counts those of tags that a repository does not have.
func newTags(tx storage.Tx, repo string, tags []string) (n int64, err error) {
	for i, tag := range tags {
		has, err := storage.Tags.Has(tx, storage.Key(repo, tag))
		if err != nil {
			return 0, err
		}
		if !has && !slices.Contains(tags[:i], tag) {
			n++
		}
	}
	return n, nil
}

// roomFor is room for what r has, behind held bytes, if it says how much that is.
func (l *Local) roomFor(ctx context.Context, repo string, d digest.Digest, r any, held int64) error {
	length := int64(0)
	if known, ok := r.(Lengther); ok {
		length = max(0, known.Length())
	}
	if length == 0 && d == "" {
		return nil
	}
	size := held + length
	if size < held { // no store has so much
		size = length
	}
	return l.room(ctx, repo, d, size)
}

// refused has the bytes d collected that were stored for a push which was then
// refused, by a quota or because something that it needs is gone, unless something
// else comes to need them. It returns err, which says why it was refused.
func (l *Local) refused(ctx context.Context, d digest.Digest, err error) error {
	if err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	size, serr := l.blobs.Size(ctx, d)
	if serr != nil {
		return err // nothing is left
	}
	qerr := l.change(ctx, func(tx *changing) error {
		there, err := storage.Stored.Has(tx, watchedBlobs.key("", d))
		if there || err != nil {
			return err
		}
		return errors.Join(putStored(tx, d, size), watchedBlobs.change(tx, "", d, func(w *storage.Watch) error {
			return tx.queue(storage.ReviewBlob, "", d, w, tx.lease(), tx.lease()) // others may push the same just now
		}))
	})
	if qerr != nil { // a scrub will find them
		l.log.WarnContext(ctx, "what was stored of a push that failed is not known to be garbage", "digest", d, "error", qerr)
	}
	return err
}
