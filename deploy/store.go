package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-registry/berth/internal/durable"
)

// record is what is on disk of a stack, beside what its revisions are made of.
type record struct {
	Name      string
	Revisions []Revision // the oldest first
	Current   int        // revision in service; 0: none
	// Under is the revision that is being put into service, or that stands where it
	// stopped (Paused).
	Under    *under   `json:",omitempty"`
	Draining []drain  `json:",omitempty"`
	Jobs     []string `json:",omitempty"` // that were done, as SERVICE@VERSION
	// Removing says that the stack is being removed, and Volumes that they are, too.
	Removing bool `json:",omitempty"`
	Volumes  bool `json:",omitempty"`
}

// under is how far a revision has come.
type under struct {
	Revision int
	Phase    phase
	// Target are the containers of the revision by service, from phaseSwitch on.
	Target map[string][]string `json:",omitempty"`
	// Outcome and Reason are why it goes back, in phaseBack.
	Outcome Outcome `json:",omitempty"`
	Reason  string  `json:",omitempty"`
}

// phase is what a deployment is about. What is done about it after a restart depends
// on it.
type phase string

const (
	phasePrepare phase = "prepare" // it has no traffic but that of a canary or of batches: it goes back
	phaseSwitch  phase = "switch"  // the traffic says whether it goes back or on
	phaseBack    phase = "back"    // it goes back
	phasePaused  phase = "paused"  // it stands still
)

// drain is a container that is to be stopped when its connections have ended.
type drain struct {
	ID, Name, Service string
	Since, Until      time.Time
	Grace             time.Duration // from the stop signal to SIGKILL
	Edge              bool          // it may have requests of the HTTP edge
}

func (r *record) revision(number int) *Revision {
	for i := range r.Revisions {
		if r.Revisions[i].Number == number {
			return &r.Revisions[i]
		}
	}
	return nil
}

// paused says whether a revision stands where it stopped.
func (r *record) paused() bool { return r.Under != nil && r.Under.Phase == phasePaused }

// pending says whether something was begun that has to be finished, or taken back.
func (r *record) pending() bool { return r.Removing || r.Under != nil && !r.paused() }

// next is the number of the revision after the last.
func (r *record) next() int {
	if n := len(r.Revisions); n > 0 {
		return r.Revisions[n-1].Number + 1
	}
	return 1
}

func (r *record) clone() record {
	c := *r
	c.Revisions, c.Draining, c.Jobs = slices.Clone(r.Revisions), slices.Clone(r.Draining), slices.Clone(r.Jobs)
	if r.Under != nil {
		u := *r.Under
		c.Under = &u
	}
	return c
}

// store has the records of a stack in a directory of its own: record.json, and for
// each revision what it is made of in NUMBER.json. Each is written beside the one
// before, synced, and then takes its place: it is never half there.
type store struct{ dir string }

const recordFile = "record.json"

func (s store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// save makes the record durable.
func (s store) save(r record) error {
	return s.write(recordFile, r)
}

// saveStack makes durable what a revision is made of.
func (s store) saveStack(number int, v *versioned) error {
	return s.write(strconv.Itoa(number)+".json", v)
}

// forget removes what revisions are made of that are not among the given, and what a
// kill has left half written. It is not synced: what comes back after a crash is removed
// another time.
func (s store) forget(keep map[int]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".json"))
		if half := strings.HasPrefix(e.Name(), ".new-"); !half && (err != nil || keep[number]) {
			continue
		}
		if err := os.Remove(s.path(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s store) write(name string, value any) error {
	text, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(s.dir); err != nil {
		return err
	}
	return durable.WriteFile(s.path(name), text)
}

// removeDir removes all that is left of a stack that has no record.
func (s store) removeDir() error { return os.RemoveAll(s.dir) }
