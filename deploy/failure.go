package deploy

import "fmt"

// Failure says why a version was not taken. It is what Deploy, Rollback and Scale
// return when a gate does not hold or a step cannot be taken.
type Failure struct {
	Revision  Revision
	Service   string   `json:",omitempty"`
	Container string   `json:",omitempty"` // name of the one that failed
	ExitCode  int      // of that container, if it has ended
	Reason    string   // in a line
	Log       []string `json:",omitempty"` // its last lines
}

func (f *Failure) Error() string {
	if f.Revision.Outcome == Cancelled {
		return fmt.Sprintf("revision %d: %s", f.Revision.Number, f.Reason)
	}
	text := f.Reason
	if f.Service != "" {
		text = fmt.Sprintf("service %s: %s", f.Service, text)
	}
	return fmt.Sprintf("revision %d: %s: %s", f.Revision.Number, f.Revision.Outcome, text)
}
