package images

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// errBudget is found in the errors of what takes more than Limits allow.
var errBudget = errors.New("more than is allowed")

// checkEvery is how many bytes or entries go by between looks at the room on the
// disk.
const (
	checkEveryBytes   = 64 << 20
	checkEveryEntries = 10_000
)

// budget is what is left for one layer.
type budget struct {
	root    string // any path on the disk
	minFree int64
	limits  Limits
	packed  *atomic.Int64 // bytes that the archive has or, while it comes, had so far
	stream  int64         // bytes of the archive so far
	files   int64         // bytes of files so far: more than of the archive if it has holes
	checked int64
	max     int64 // entries
	entries int64
}

// newBudget returns the budget of an archive of so many packed bytes. If that is
// not known, it is to be counted as they come.
func (s *Store) newBudget(packed int64) *budget {
	b := &budget{root: s.opts.Root, minFree: s.opts.Limits.MinFree, limits: s.opts.Limits, packed: new(atomic.Int64), max: s.opts.Limits.Entries}
	b.packed.Store(packed)
	return b
}

// limit is how many bytes the archive may unpack to.
func (b *budget) limit() int64 {
	l, packed := b.limits, b.packed.Load()
	if packed >= l.Unpacked/l.Ratio {
		return l.Unpacked
	}
	return min(l.Unpacked, max(l.Floor, packed*l.Ratio))
}

func (b *budget) entry() error {
	b.entries++
	if b.entries >= b.max {
		return budgetError("the layer has %d entries or more", b.max)
	}
	if b.entries%checkEveryEntries == 0 {
		return b.room()
	}
	return nil
}

func (b *budget) read(n int64) error {
	b.stream += n
	if b.stream > b.limit() {
		return budgetError("the layer unpacks to more than %s", units.BytesSize(float64(b.limit())))
	}
	return nil
}

func (b *budget) file(n int64) error {
	b.files += n
	if b.files > b.limit() {
		return budgetError("the layer's files are more than %s", units.BytesSize(float64(b.limit())))
	}
	if b.files-b.checked >= checkEveryBytes {
		b.checked = b.files
		return b.room()
	}
	return nil
}

// room fails if there is too little left on the disk.
func (b *budget) room() error {
	var st unix.Statfs_t
	if err := unix.Statfs(b.root, &st); err != nil {
		return err
	}
	free, size := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	want := b.minFree
	if want == 0 {
		want = min(size/100, 1<<30)
	}
	if free < want {
		return budgetError("no space left for images: %s of %s are free", units.BytesSize(float64(free)), units.BytesSize(float64(size)))
	}
	if st.Files > 0 && st.Ffree < min(st.Files/100, 10_000) {
		return budgetError("no space left for images: %d of %d inodes are free", st.Ffree, st.Files)
	}
	return nil
}

func budgetError(format string, args ...any) error {
	return runner.Errorf(runner.ErrPrecondition, "%s%w", fmt.Sprintf(format, args...), silent{errBudget})
}

// silent is found by errors.Is, and adds nothing to a text.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }
