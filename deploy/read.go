package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

// fileBound bounds a file of a stack, in bytes: it is far more than what a request may
// have, indented.
const fileBound = 256 << 20

// unreadable says that a file of a stack cannot be read, or makes no sense.
type unreadable struct {
	path string
	err  error
}

func (e *unreadable) Error() string { return e.path + " cannot be read: " + e.err.Error() }
func (e *unreadable) Unwrap() error { return e.err }

// load reads the record. It fails with an *unreadable.
func (s store) load() (record, error) {
	var r record
	err := readJSON(s.path(recordFile), &r)
	if err == nil {
		err = r.check(filepath.Base(s.dir))
	}
	if err != nil {
		return record{Name: filepath.Base(s.dir)}, &unreadable{s.path(recordFile), err}
	}
	return r, nil
}

// stack returns what a revision is made of. It fails with runner.ErrNotFound, or with
// runner.ErrPrecondition and an *unreadable.
func (s store) stack(number int) (*versioned, error) {
	var v versioned
	path := s.path(strconv.Itoa(number) + ".json")
	err := readJSON(path, &v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, runner.Errorf(runner.ErrNotFound, "revision %d is not remembered", number)
	}
	if err == nil {
		err = v.check(filepath.Base(s.dir))
	}
	if err != nil {
		return nil, runner.Errorf(runner.ErrPrecondition, "%w", &unreadable{path, err})
	}
	return &v, nil
}

// readJSON reads a file strictly: what a newer program has written into it, and this one
// does not know, must not be lost or overlooked.
func readJSON(path string, into any) error {
	text, err := durable.ReadFile(path, fileBound)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it is empty")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return fmt.Errorf("a newer berth-runner has written it: this one does not know %s", field)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("its end is missing")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind its end")
	}
	return nil
}

// check returns what is wrong with a record that was read: what the rest relies on.
func (r *record) check(name string) error {
	if r.Name != name {
		return fmt.Errorf("it is of stack %q", r.Name)
	}
	last := 0
	for _, rev := range r.Revisions {
		if rev.Number <= last || rev.Number > math.MaxInt32 {
			return errors.New("its revisions are not in order")
		}
		last = rev.Number
	}
	if last == 0 {
		return errors.New("it has no revisions")
	}
	if r.Current != 0 && r.revision(r.Current) == nil {
		return fmt.Errorf("revision %d, which is in service, is not in it", r.Current)
	}
	if u := r.Under; u != nil {
		if r.revision(u.Revision) == nil {
			return fmt.Errorf("revision %d, which is being deployed, is not in it", u.Revision)
		}
		if !slices.Contains([]phase{phasePrepare, phaseSwitch, phaseBack, phasePaused}, u.Phase) {
			return fmt.Errorf("a newer berth-runner has written it: this one does not know the phase %q", u.Phase)
		}
	}
	if slices.ContainsFunc(r.Draining, func(d drain) bool { return d.ID == "" }) {
		return errors.New("a container that is drained has no ID")
	}
	return nil
}

// check returns what is wrong with what was read of a revision.
func (v *versioned) check(name string) error {
	if v.Stack == nil {
		return errors.New("it has no stack")
	}
	if v.Stack.Name != name {
		return fmt.Errorf("it is of stack %q", v.Stack.Name)
	}
	for name := range v.Versions {
		if v.Stack.service(name) == nil {
			return fmt.Errorf("there is no service %q, which has a version", name)
		}
	}
	return check(v.Stack, true)
}

// pinned says whether each service has its version.
func (v *versioned) pinned() bool {
	return !slices.ContainsFunc(v.Stack.Services, func(svc Service) bool { return v.version(svc.Name) == "" })
}
