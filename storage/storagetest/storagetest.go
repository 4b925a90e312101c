// Package storagetest says in code what package storage says in words: the
// suites that every driver of Blobs and Meta must pass.
//
//	func TestMeta(t *testing.T) { storagetest.TestMeta(t, open) }
//
// A driver that keeps its data also runs the Reopen suites. The suites test
// what any caller can see. What a driver does when the machine stops or the
// medium fails is for its own tests, which know where to inject the fault.
package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "crypto/sha512" // for digests
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Two tables for tests that need no rows of a certain type.
var (
	table = storage.Tags.Name()
	other = storage.Links.Name()
)

// patience is how long a suite waits for what should happen at once.
const patience = 30 * time.Second

// noise returns n bytes that look random and are the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(b) < n; i++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func update(t *testing.T, m storage.Meta, fn func(storage.Tx) error) {
	t.Helper()
	if err := m.Update(context.Background(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t *testing.T, m storage.Meta, fn func(storage.Tx) error) {
	t.Helper()
	if err := m.View(context.Background(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// put stores keys in table, each with its own name as value.
func put(t *testing.T, m storage.Meta, keys ...string) {
	t.Helper()
	update(t, m, func(tx storage.Tx) error {
		for _, k := range keys {
			if err := tx.Put(table, []byte(k), []byte("value of "+k)); err != nil {
				return err
			}
		}
		return nil
	})
}

// expect is an error if the row is not as it should be; a nil value stands for
// no row.
func expect(tx storage.Tx, table, key string, value []byte) error {
	got, err := tx.Get(table, []byte(key))
	switch {
	case value == nil && errors.Is(err, storage.ErrNotFound):
		return nil
	case value == nil && err == nil:
		return fmt.Errorf("row %q is there, want none", key)
	case err != nil:
		return fmt.Errorf("get row %q: %w", key, err)
	case !bytes.Equal(got, value):
		return fmt.Errorf("row %q is %d bytes %.40q, want %d bytes %.40q", key, len(got), got, len(value), value)
	}
	return nil
}

func checkRow(t *testing.T, m storage.Meta, key string, value []byte) {
	t.Helper()
	view(t, m, func(tx storage.Tx) error { return expect(tx, table, key, value) })
}

// scan returns the keys that a scan of table yields.
func scan(tx storage.Tx, prefix, after []byte) ([]string, error) {
	keys := []string{}
	for row, err := range tx.Scan(table, prefix, after) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, string(row.Key))
	}
	return keys, nil
}

// within fails the test if ch is not closed in time.
func within(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %v", what, patience)
	}
}
