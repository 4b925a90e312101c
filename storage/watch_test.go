package storage

import (
	"bytes"
	"testing"
)

// TestWatch has it that the fields of an embedded Watch are those of the row, and
// that rows from before there was one can be read.
func TestWatch(t *testing.T) {
	before, err := encMode.Marshal(struct {
		Size int64 `cbor:"1,keyasint"`
	}{7})
	if err != nil {
		t.Fatal(err)
	}
	var l Link
	if err := Links.decode(before, &l); err != nil || l != (Link{Size: 7}) {
		t.Errorf("an old row is %+v, %v", l, err)
	}
	plain, err := encMode.Marshal(Link{Size: 7})
	if err != nil || !bytes.Equal(plain, before) {
		t.Errorf("a row without a watch is %x, was %x, %v", plain, before, err)
	}
	want := Link{Size: 7, Watch: Watch{Due: 1, Lease: 2}}
	b, err := encMode.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := Links.decode(b, &l); err != nil || l != want {
		t.Errorf("got %+v, %v", l, err)
	}
}
