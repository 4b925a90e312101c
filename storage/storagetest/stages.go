package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// testResume checks that a stage goes on where its caller says, and forgets what
// it held behind that.
func testResume(t *testing.T, b storage.Blobs) {
	data := noise(100_000, 1)
	s := openStage(t, b, stageID(0), 0)
	write(t, s, data[:40_000])
	must(t, "Sync", s.Sync())
	write(t, s, noise(5_000, 2)) // to be forgotten
	must(t, "Close", s.Close())

	s = openStage(t, b, stageID(0), 40_000)
	checkStage(t, s, data[:40_000])
	write(t, s, data[40_000:60_000])
	checkStage(t, s, data[:60_000])
	must(t, "Sync", s.Sync())
	must(t, "Close", s.Close())

	s = openStage(t, b, stageID(0), 50_000)
	checkStage(t, s, data[:50_000])
	must(t, "Close", s.Close())
	checkNoStage(t, b, stageID(0), 50_001)

	s = openStage(t, b, stageID(0), 50_000)
	write(t, s, data[50_000:])
	d := digest.FromBytes(data)
	must(t, "Commit", s.Commit(d))
	must(t, "Close", s.Close())
	checkBlob(t, b, d, data)
	checkNoStage(t, b, stageID(0), 50_000)
}

func testResumeShort(t *testing.T, b storage.Blobs) {
	checkNoStage(t, b, stageID(0), 10)
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("a stage that was not found is listed: %q", got)
	}
	s := openStage(t, b, stageID(0), 0)
	write(t, s, []byte("123456789"))
	must(t, "Sync and Close", errors.Join(s.Sync(), s.Close()))
	checkNoStage(t, b, stageID(0), 10)
	checkNoStage(t, b, stageID(1), 9)
	s = openStage(t, b, stageID(0), 9)
	checkStage(t, s, []byte("123456789"))
	must(t, "Close", s.Close())
}

func testCloseKeeps(t *testing.T, b storage.Blobs) {
	s := openStage(t, b, stageID(0), 0)
	write(t, s, []byte("kept"))
	must(t, "Close", s.Close())
	if got := stages(t, b); !slices.Equal(got, []string{stageID(0)}) {
		t.Errorf("Stages lists %q", got)
	}
	s = openStage(t, b, stageID(0), 4)
	checkStage(t, s, []byte("kept"))
	must(t, "Commit", s.Commit(digest.FromString("kept")))
	must(t, "Close", s.Close())
	checkBlob(t, b, digest.FromString("kept"), []byte("kept"))
}

// testStartAgain checks that offset 0 empties a stage, one that was committed
// included.
func testStartAgain(t *testing.T, b storage.Blobs) {
	for _, data := range [][]byte{[]byte("first attempt"), []byte("second"), {}} {
		s := openStage(t, b, stageID(0), 0)
		checkStage(t, s, nil)
		write(t, s, []byte("given up, and longer than what follows"))
		must(t, "Sync and Close", errors.Join(s.Sync(), s.Close()))

		s = openStage(t, b, stageID(0), 0)
		checkStage(t, s, nil)
		write(t, s, data)
		must(t, "Commit", s.Commit(digest.FromBytes(data)))
		must(t, "Close", s.Close())
		checkBlob(t, b, digest.FromBytes(data), data)
	}
}

func testReadWhileWriting(t *testing.T, b storage.Blobs) {
	data := noise(200_000, 1)
	s := openStage(t, b, stageID(0), 0)
	write(t, s, data[:100_000])
	r, err := s.Reader()
	must(t, "Reader", err)
	head := make([]byte, 50_000)
	_, err = io.ReadFull(r, head)
	must(t, "read", err)
	write(t, s, data[100_000:])
	tail, err := io.ReadAll(r)
	must(t, "read", errors.Join(err, r.Close()))
	// How much of what was written since is seen, the driver decides.
	got := append(head, tail...)
	if len(got) < 100_000 || len(got) > len(data) || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("read %d bytes while writing, or not those written", len(got))
	}
	checkStage(t, s, data)
	checkStage(t, s, data) // as often as one likes
	must(t, "Commit", s.Commit(digest.FromBytes(data)))
	must(t, "Close", s.Close())
	checkBlob(t, b, digest.FromBytes(data), data)
}

// testKnownDigest checks stages that are told from the start what they become.
func testKnownDigest(t *testing.T, b storage.Blobs) {
	for i, size := range []int{0, 1000, 3_000_001, 12_000_000} {
		data := noise(size, uint64(i))
		d := digest.FromBytes(data)
		open := func() storage.Stage {
			s, err := storage.StageFor(context.Background(), b, stageID(i), d)
			must(t, "StageFor", err)
			return s
		}
		s := open() // given up
		write(t, s, noise(size, 9))
		must(t, "Close", s.Close())
		checkNoBlob(t, b, d)
		must(t, "Discard", b.Discard(context.Background(), stageID(i)))

		s = open() // saved halfway
		write(t, s, data[:size/2])
		must(t, "Sync and Close", errors.Join(s.Sync(), s.Close()))
		s = openStage(t, b, stageID(i), int64(size/2))
		write(t, s, data[size/2:])
		must(t, "Commit and Close", errors.Join(s.Commit(d), s.Close()))
		checkBlob(t, b, d, data)
		must(t, "Delete", b.Delete(context.Background(), d))

		s = open() // at once
		write(t, s, data)
		must(t, "Commit and Close", errors.Join(s.Commit(d), s.Close()))
		checkBlob(t, b, d, data)
	}
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("after the commits there are the stages %q", got)
	}
}

func testDiscard(t *testing.T, b storage.Blobs) {
	ctx := context.Background()
	must(t, "Discard of nothing", b.Discard(ctx, stageID(0)))
	for i := range 2 {
		s := openStage(t, b, stageID(i), 0)
		write(t, s, []byte("bytes"))
		must(t, "Sync and Close", errors.Join(s.Sync(), s.Close()))
	}
	must(t, "Discard", b.Discard(ctx, stageID(0)))
	must(t, "Discard again", b.Discard(ctx, stageID(0)))
	checkNoStage(t, b, stageID(0), 5)
	if got := stages(t, b); !slices.Equal(got, []string{stageID(1)}) {
		t.Errorf("after Discard, Stages lists %q", got)
	}

	d := digest.FromString("bytes")
	s := openStage(t, b, stageID(1), 5)
	must(t, "Commit", s.Commit(d))
	must(t, "Close", s.Close())
	must(t, "Discard after Commit", b.Discard(ctx, stageID(1)))
	checkBlob(t, b, d, []byte("bytes"))
}

func testStages(t *testing.T, b storage.Blobs) {
	want := []string{}
	closed := map[string]bool{}
	for i := range 20 {
		s := openStage(t, b, stageID(i), 0)
		write(t, s, []byte("bytes"))
		must(t, "Sync", s.Sync())
		if i%2 == 0 {
			must(t, "Close", s.Close())
			closed[stageID(i)] = true
		} else {
			defer func() { must(t, "Close", s.Close()) }()
		}
		want = append(want, stageID(i))
	}
	if got := stages(t, b); !slices.Equal(got, want) {
		t.Errorf("Stages lists %q, want %q", got, want)
	}
	n := 0
	for _, err := range b.Stages(context.Background()) {
		must(t, "Stages", err)
		if n++; n == 3 {
			break
		}
	}
	// The list is for clearing up, so stages may go while it is read.
	for s, err := range b.Stages(context.Background()) {
		must(t, "Stages", err)
		if closed[s.ID] {
			must(t, "Discard", b.Discard(context.Background(), s.ID))
		}
	}
	want = slices.DeleteFunc(want, func(id string) bool { return closed[id] })
	if got := stages(t, b); !slices.Equal(got, want) {
		t.Errorf("after Discard, Stages lists %q, want %q", got, want)
	}
}
