package s3

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
)

// noteSuffix is how the key of a note ends, so that for a server that keeps objects
// in files no note is in the way of another's directory.
const noteSuffix = ".note"

func (b *Blobs) noteKey(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." || !notePart(part) {
			return "", fmt.Errorf("%q is no name of a note", name)
		}
	}
	return b.prefix + "notes/" + name + noteSuffix, nil
}

func notePart(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// PutNote implements storage.Notes.
func (b *Blobs) PutNote(ctx context.Context, name string, data []byte) error {
	key, err := b.noteKey(name)
	if err != nil {
		return err
	}
	buf := buffer{dir: b.temp}
	defer buf.reset()
	if _, err := buf.Write(data); err != nil {
		return err
	}
	return b.put(ctx, key, &buf)
}

// DeleteNote implements storage.Notes.
func (b *Blobs) DeleteNote(ctx context.Context, name string) error {
	key, err := b.noteKey(name)
	if err != nil {
		return err
	}
	return b.remove(ctx, key)
}

// Note implements storage.Notes.
func (b *Blobs) Note(ctx context.Context, name string) ([]byte, error) {
	key, err := b.noteKey(name)
	if err != nil {
		return nil, err
	}
	r := b.newReader(ctx, key)
	defer func() { _ = r.Close() }() // it was only read
	if err := r.first(); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// NoteNames implements storage.Notes.
func (b *Blobs) NoteNames(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		prefix := b.prefix + "notes/"
		for o, err := range b.list(ctx, prefix, "") {
			if err != nil {
				yield("", err)
				return
			}
			name, isNote := strings.CutSuffix(strings.TrimPrefix(o.Key, prefix), noteSuffix)
			if isNote && !yield(name, nil) {
				return
			}
		}
	}
}
