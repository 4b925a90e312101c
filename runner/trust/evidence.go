package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
)

const (
	// maxKept bounds the signatures that are kept for a digest: by other keys, after the
	// policy has changed. The newest stay.
	maxKept = 4
	// maxEvidence bounds a file of them, in bytes: as JSON they are larger.
	maxEvidence = maxKept * 2 * maxDocument
)

// evidence keeps signatures that were accepted, in a file for each digest. They are
// worth nothing unless they verify.
type evidence struct {
	dir string // empty: none are kept
	mu  sync.Mutex
}

// path is the file of a digest.
func (e *evidence) path(subject digest.Digest) string {
	return filepath.Join(e.dir, subject.Algorithm().String()+"-"+subject.Encoded()+".json")
}

// accepted says whether a signature that is kept counts for a candidate.
func (e *evidence) accepted(c candidate) bool {
	for _, subject := range c.subjects() {
		for _, s := range e.read(subject) {
			if c.rule.accept(s, subject, c.origin.Repository) == nil {
				return true
			}
		}
	}
	return false
}

// read returns the signatures that are kept for a digest. What cannot be read is as if
// it was not there: it is fetched again.
func (e *evidence) read(subject digest.Digest) []signed {
	if e.dir == "" || subject.Validate() != nil {
		return nil
	}
	f, err := os.Open(e.path(subject))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEvidence))
	if err != nil {
		return nil
	}
	var list []signed
	if json.Unmarshal(data, &list) != nil {
		return nil
	}
	return list
}

// keep keeps a signature of a digest, durably.
func (e *evidence) keep(subject digest.Digest, s signed) error {
	if e.dir == "" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := durable.MkdirAll(e.dir); err != nil {
		return err
	}
	list := slices.DeleteFunc(e.read(subject), func(old signed) bool { return old.equal(s) })
	list = append(list[max(0, len(list)-maxKept+1):], s)
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return durable.WriteFile(e.path(subject), data)
}

func (s signed) equal(o signed) bool {
	a, aerr := json.Marshal(s)
	b, berr := json.Marshal(o)
	return aerr == nil && berr == nil && bytes.Equal(a, b)
}

// Forget removes the signatures of digests that are not to be kept, because no image
// has them any more, and what a killed process has left half written.
func (p *Policy) Forget(keep func(digest.Digest) bool) error {
	e := &p.evidence
	if e.dir == "" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	files, err := os.ReadDir(e.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		algorithm, rest, _ := strings.Cut(f.Name(), "-")
		hex, ok := strings.CutSuffix(rest, ".json")
		if ok && keep(digest.Digest(algorithm+":"+hex)) {
			continue
		}
		if err := os.Remove(filepath.Join(e.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
