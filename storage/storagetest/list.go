package storagetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// list lists the blobs behind after, and checks what is said of them.
func list(t *testing.T, b storage.Blobs, after digest.Digest, sizes map[digest.Digest]int64) (all []digest.Digest) {
	t.Helper()
	for info, err := range b.List(context.Background(), after) {
		must(t, "List", err)
		if info.Size != sizes[info.Digest] {
			t.Errorf("List says that %s has %d bytes, not %d", info.Digest, info.Size, sizes[info.Digest])
		}
		if age := time.Since(info.Modified); age > time.Hour || age < -time.Hour {
			t.Errorf("List says that %s came at %v", info.Digest, info.Modified)
		}
		all = append(all, info.Digest)
	}
	return all
}

// testList checks that List yields each blob, in order, from anywhere.
func testList(t *testing.T, b storage.Blobs) {
	sizes := map[digest.Digest]int64{}
	if got := list(t, b, "", sizes); len(got) > 0 {
		t.Errorf("an empty store has the blobs %v", got)
	}
	var want []digest.Digest
	for i := range 40 {
		data := noise(i*i*100, uint64(i))
		for _, d := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
			must(t, "store", store(b, i, d, data))
			want, sizes[d] = append(want, d), int64(len(data))
		}
	}
	slices.Sort(want)
	if got := list(t, b, "", sizes); !slices.Equal(got, want) {
		t.Errorf("List yields %v, want %v", got, want)
	}
	for i, after := range want {
		if got := list(t, b, after, sizes); !slices.Equal(got, want[i+1:]) {
			t.Errorf("behind %s List yields %d blobs, want %d", after, len(got), len(want)-i-1)
		}
	}
	for _, after := range []digest.Digest{"sha256:", "sha256:7", "sha256:7fffffff", "sha256:g", "sha512:", "sha512:00", "t"} {
		i, _ := slices.BinarySearch(want, after)
		if got := list(t, b, after, sizes); !slices.Equal(got, want[i:]) {
			t.Errorf("behind %s, which is none, List yields %d blobs, want %d", after, len(got), len(want)-i)
		}
	}
	for info, err := range b.List(context.Background(), "") { // whoever has enough can leave
		must(t, "List", err)
		must(t, "Delete while listing", b.Delete(context.Background(), info.Digest))
		break
	}
	if got := list(t, b, "", sizes); !slices.Equal(got, want[1:]) {
		t.Errorf("without its first, List yields %d blobs, want %d", len(got), len(want)-1)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range b.List(ended, "") {
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("List in a context that has ended: error %v", err)
		}
	}
}

// testQuarantine checks that what was moved away is no blob, and can be stored
// again.
func testQuarantine(t *testing.T, b storage.Blobs) {
	if err := b.Quarantine(context.Background(), digest.FromString("never stored")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Quarantine of nothing: error %v, want ErrNotFound", err)
	}
	for i, size := range []int{0, 100, 300_000} {
		data, other := noise(size, uint64(i)), noise(size+1, uint64(i)+10)
		d, o := digest.FromBytes(data), digest.FromBytes(other)
		must(t, "store", store(b, 0, o, other))
		for range 2 {
			must(t, "store", store(b, 0, d, data))
			must(t, "Quarantine", b.Quarantine(context.Background(), d))
			checkNoBlob(t, b, d)
			if err := b.Delete(context.Background(), d); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Delete of what was moved away: error %v, want ErrNotFound", err)
			}
			for info, err := range b.List(context.Background(), "") {
				must(t, "List", err)
				if info.Digest == d {
					t.Errorf("List yields %s, which was moved away", d)
				}
			}
		}
		must(t, "store", store(b, 0, d, data))
		checkBlob(t, b, d, data)
		checkBlob(t, b, o, other)
	}
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("there are the stages %q", got)
	}
}
