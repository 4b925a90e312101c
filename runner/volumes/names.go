package volumes

import (
	"errors"
	"io/fs"
	"regexp"

	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// nameChars are the characters of a name, as Docker shows them. None of them
// makes a path of it, and the directories that begin with a dot are the store's.
const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

const maxName = 255 // of a directory entry

var namePattern = regexp.MustCompile("^" + nameChars + "+$")

func checkName(name string) error {
	switch {
	case len(name) == 1:
		return runner.Errorf(runner.ErrInvalid, "volume name is too short, names should be at least two alphanumeric characters")
	case !namePattern.MatchString(name):
		return runner.Errorf(runner.ErrInvalid, "%q includes invalid characters for a local volume name, only %q are allowed. If you intended to pass a host directory, use absolute path", name, nameChars)
	case len(name) > maxName:
		return runner.Errorf(runner.ErrInvalid, "volume name is too long, names should be at most %d characters", maxName)
	}
	return nil
}

// checkRequest says what of a request cannot be fulfilled.
func checkRequest(name string, req volume.CreateRequest) error {
	if req.Driver != "" && req.Driver != Driver {
		return runner.Errorf(runner.ErrNotFound, "error looking up volume plugin %s: plugin %q not found", req.Driver, req.Driver)
	}
	if req.ClusterVolumeSpec != nil {
		return runner.Errorf(runner.ErrNotImplemented, "cluster volumes are not supported")
	}
	if err := checkName(name); err != nil {
		return err
	}
	return checkOptions(req.DriverOpts)
}

// kindOf is the kind of an error that is wrapped.
func kindOf(err error) error {
	for _, kind := range []error{runner.ErrInvalid, runner.ErrNotFound, runner.ErrNotImplemented, runner.ErrConflict} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return runner.ErrForbidden
	}
	return err
}
