package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

func update(t *testing.T, m storage.Meta, fn func(storage.Tx) error) {
	t.Helper()
	if err := m.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// roundTrip checks that each row comes back as it was put, by Get and by Scan.
func roundTrip[V any](t *testing.T, table storage.Table[V], rows ...V) {
	t.Run(table.Name(), func(t *testing.T) {
		if !slices.Contains(storage.Tables(), table.Name()) {
			t.Error("Tables does not list it")
		}
		update(t, mem.NewMeta(), func(tx storage.Tx) error {
			for i, want := range rows {
				key := storage.Key("repo", fmt.Sprint(i))
				if err := table.Put(tx, key, want); err != nil {
					return err
				}
				if got, err := table.Get(tx, key); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("Get = %+v, %v, want %+v", got, err, want)
				}
			}
			i := 0
			for e, err := range table.Scan(tx, storage.Key("repo", ""), nil) {
				if err != nil {
					return err
				}
				if string(e.Rest) != fmt.Sprint(i) || !bytes.Equal(e.Key, storage.Key("repo", string(e.Rest))) {
					t.Errorf("Scan yields key %q with the rest %q", e.Key, e.Rest)
				}
				if !reflect.DeepEqual(e.Value, rows[i]) {
					t.Errorf("Scan yields %+v, want %+v", e.Value, rows[i])
				}
				i++
			}
			if i != len(rows) {
				t.Errorf("Scan yields %d rows, want %d", i, len(rows))
			}
			return nil
		})
	})
}

func TestRoundTrip(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	d := digests[0].String()
	roundTrip(t, storage.Settings, storage.Setting{}, storage.Setting{Value: []byte{0, 1, 0xff}})
	roundTrip(t, storage.Counters, storage.Counter{}, storage.Counter{N: -1}, storage.Counter{N: 1 << 62})
	roundTrip(t, storage.Repos, storage.Repo{}, storage.Repo{Manifests: 3, Description: "käse", Updated: at})
	roundTrip(t, storage.Stored, storage.Blob{}, storage.Blob{Size: 1 << 40, Created: at})
	roundTrip(t, storage.Links, storage.Link{}, storage.Link{Size: 1 << 40})
	roundTrip(t, storage.Holders, storage.Mark{}, storage.Mark{})
	roundTrip(t, storage.Manifests, storage.Manifest{}, storage.Manifest{
		MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 500, Pushed: at, Subject: d,
		Refs: []byte(storage.DigestPart(digests[1]) + storage.DigestPart(digests[2])),
	})
	roundTrip(t, storage.Parents, storage.Mark{})
	roundTrip(t, storage.Referrers, storage.Referrer{}, storage.Referrer{
		MediaType: "m", Size: 5, ArtifactType: "a", Annotations: map[string]string{"k": "v", "": ""},
	})
	roundTrip(t, storage.Tags, storage.Tag{}, storage.Tag{Digest: d, Moved: at})
	roundTrip(t, storage.Tagged, storage.Mark{})
	roundTrip(t, storage.History, storage.TagMove{}, storage.TagMove{Digest: d})
	roundTrip(t, storage.Uploads, storage.Upload{}, storage.Upload{
		State: storage.UploadCommitted, Size: 7, Hash: []byte("state"), Updated: at, Digest: d,
	})
	roundTrip(t, storage.Leases, storage.Lease{Holder: "h", Owner: "host 7", Beat: 3, TTL: time.Minute, Since: at})
	roundTrip(t, storage.Holds, storage.Hold{Until: at})
	roundTrip(t, storage.Replicas, storage.Replica{}, storage.Replica{Beat: 1 << 40, Since: at})
	roundTrip(t, storage.AccountChanges, storage.AccountChange{}, storage.AccountChange{Accounts: []string{"a"}, Keys: []string{"k", "l"}})
	roundTrip(t, storage.FollowerLogs, storage.FollowerLog{Lines: []string{"l"}}, storage.FollowerLog{Lines: []string{"l"}, Digest: d})
	roundTrip(t, storage.RolloutFailures, storage.RolloutFailure{
		Digest: d, Attempt: 3, Reason: "r", At: at, Nodes: []storage.FailedNode{{Name: "n", Cause: "c", At: at}}, More: 2,
	})
	roundTrip(t, storage.Guesses, storage.Guess{}, storage.Guess{Level: 4.25, At: at, Due: at, Until: at})
}

func TestTables(t *testing.T) {
	names := storage.Tables()
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("two tables have one name: %q", names)
	}
	for _, name := range names {
		if name == "" || strings.Contains(name, "\x00") {
			t.Errorf("table name %q", name)
		}
	}
}

// TestTimes checks how exact the times of rows are.
func TestTimes(t *testing.T) {
	want := time.Date(2026, 11, 23, 19, 30, 1, 123_456_789, time.FixedZone("", 3600))
	update(t, mem.NewMeta(), func(tx storage.Tx) error {
		if err := storage.Tags.Put(tx, storage.Key("r", "t"), storage.Tag{Moved: want}); err != nil {
			return err
		}
		got, err := storage.Tags.Get(tx, storage.Key("r", "t"))
		if off := got.Moved.Sub(want).Abs(); err != nil || off > time.Microsecond {
			t.Errorf("time %v comes back as %v, %v", want, got.Moved, err)
		}
		return nil
	})
}

func TestHas(t *testing.T) {
	key := storage.Key("repo", storage.DigestPart(digest.FromString("blob")))
	m := mem.NewMeta()
	for _, want := range []bool{false, true, false} {
		update(t, m, func(tx storage.Tx) error {
			has, err := storage.Links.Has(tx, key)
			if err != nil || has != want {
				t.Errorf("Has = %v, %v, want %v", has, err, want)
			}
			if has {
				return storage.Links.Delete(tx, key)
			}
			if _, err := storage.Links.Get(tx, key); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Get: error %v, want ErrNotFound", err)
			}
			return storage.Links.Put(tx, key, storage.Link{Size: 1})
		})
	}
}

func TestDamagedRow(t *testing.T) {
	update(t, mem.NewMeta(), func(tx storage.Tx) error {
		for i, row := range []string{"", "\xff", "\xa1\x01", "text", "\xa1\x01\x61x", strings.Repeat("\x81", 1000)} {
			key := storage.Key("repo", fmt.Sprint(i))
			if err := tx.Put(storage.Links.Name(), key, []byte(row)); err != nil {
				return err
			}
			if _, err := storage.Links.Get(tx, key); err == nil || !strings.Contains(err.Error(), "links") {
				t.Errorf("Get of the row %.10x: error %v, want one that names the table", row, err)
			}
		}
		n := 0
		for _, err := range storage.Links.Scan(tx, nil, nil) {
			if n++; err == nil {
				t.Error("Scan over a damaged row: no error")
			}
		}
		if n != 1 {
			t.Errorf("Scan goes on after a damaged row")
		}
		return nil
	})
}

func TestCount(t *testing.T) {
	m := mem.NewMeta()
	var sum int64
	for _, delta := range []int64{5, -2, 1 << 40, -1 << 40, 0, -3} {
		update(t, m, func(tx storage.Tx) error {
			if n, err := storage.Total(tx, storage.CountBytes); err != nil || n != sum {
				t.Errorf("Total = %d, %v, want %d", n, err, sum)
			}
			n, err := storage.Count(tx, storage.CountBytes, delta)
			if n != sum+delta {
				t.Errorf("Count returns %d, want %d", n, sum+delta)
			}
			return err
		})
		sum += delta
	}
	update(t, m, func(tx storage.Tx) error {
		n, err := storage.Total(tx, storage.CountBlobs)
		if err != nil || n != 0 {
			t.Errorf("Total of another counter = %d, %v", n, err)
		}
		return nil
	})
}

// TestTakeRows takes rows of a table behind a key, with what their keys end in.
func TestTakeRows(t *testing.T) {
	update(t, mem.NewMeta(), func(tx storage.Tx) error {
		for i := range 4 {
			if err := storage.Counters.Put(tx, storage.Key("n", fmt.Sprint(i)), storage.Counter{N: int64(i)}); err != nil {
				return err
			}
		}
		rows, err := storage.Counters.Take(tx, storage.Key("n", ""), storage.Key("n", "0"), 2)
		if err != nil || len(rows) != 2 || string(rows[0].Rest) != "1" || rows[1].Value.N != 2 {
			t.Errorf("Take = %+v, %v", rows, err)
		}
		if err := tx.Put(storage.Counters.Name(), storage.Key("n", "1"), []byte("damaged")); err != nil {
			return err
		}
		if _, err := storage.Counters.Take(tx, storage.Key("n", ""), nil, 2); err == nil {
			t.Error("Take gives a damaged row")
		}
		return nil
	})
}
