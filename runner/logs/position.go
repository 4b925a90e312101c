package logs

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/berth-registry/berth/runner/logs/remote"
)

// sentName is the file that says how far a log has been sent.
const sentName = prefix + "sent"

// position is a place in a log between two lines of its files.
type position struct {
	// Number and Offset are a file and a place in it as it was before its
	// beginning was cut off. Number 0 is the beginning of the log.
	Number int64 `json:"number"`
	Offset int64 `json:"offset"`
	// Begin is the time that the file begins with: files that the monitor made
	// while no Keeper was there may come to have a number that one had before.
	Begin string `json:"begin,omitempty"`
	// Open are the lines that go on there, by stream; nil for none.
	Open [streams]*remote.Piece `json:"open"`
	// Hold is the first file that may have to be sent again.
	Hold int64 `json:"hold,omitempty"`
}

// loadPosition reads how far a log has been sent: to its beginning if that is not
// known.
func loadPosition(dir string) position {
	var p position
	data, err := os.ReadFile(filepath.Join(dir, sentName))
	if err != nil || json.Unmarshal(data, &p) != nil || p.Number < 0 || p.Offset < 0 {
		return position{}
	}
	return p
}

// save writes how far a log has been sent. It is there for a daemon that comes
// after this one; a host that loses its power may go back by some seconds.
func (p position) save(dir string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "sent.tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, sentName))
}
