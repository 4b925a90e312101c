package storagetest

import (
	"errors"
	"slices"
	"testing"

	"github.com/berth-registry/berth/storage"
)

// TestNotes checks that a driver does what storage.Notes promises. n has none yet.
func TestNotes(t *testing.T, n storage.Notes) {
	ctx := t.Context()
	if _, err := n.Note(ctx, "a/b"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Note of nothing: %v", err)
	}
	if err := n.DeleteNote(ctx, "a/b"); err != nil {
		t.Errorf("DeleteNote of nothing: %v", err)
	}
	// One is where another's name goes through.
	names := []string{"a", "a/b", "a/b/c.d-e_f", "z"}
	for _, name := range names {
		for _, text := range []string{"before", name} {
			if err := n.PutNote(ctx, name, []byte(text)); err != nil {
				t.Fatalf("PutNote(%q): %v", name, err)
			}
		}
	}
	if err := n.DeleteNote(ctx, "z"); err != nil {
		t.Error(err)
	}
	names = names[:3]
	var got []string
	for name, err := range n.NoteNames(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name)
		if data, err := n.Note(ctx, name); err != nil || string(data) != name {
			t.Errorf("Note(%q) = %q, %v", name, data, err)
		}
	}
	if slices.Sort(got); !slices.Equal(got, names) {
		t.Errorf("NoteNames lists %q, want %q", got, names)
	}
	for _, err := range n.NoteNames(ctx) { // can be left
		if err != nil {
			t.Error(err)
		}
		break
	}
}
