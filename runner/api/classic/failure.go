package classic

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
)

// processText is how BuildKit tells of a command that has failed.
var processText = regexp.MustCompile(`process ("(?:[^"\\]|\\.)*") did not complete successfully`)

// Failure is the error of a build as the classic builder put it. That of a command
// has its exit code as the error's.
func Failure(err error) error {
	exit, ok := errors.AsType[*gatewaypb.ExitError](err)
	if !ok || exit.ExitCode == gatewaypb.UnknownExitStatus {
		return err
	}
	m := processText.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	command, errText := strconv.Unquote(m[1])
	if errText != nil {
		command = m[1]
	}
	return runner.Errorf(runner.ErrPrecondition, "%w", &jsonstream.Error{
		Code:    int(exit.ExitCode),
		Message: fmt.Sprintf("The command '%s' returned a non-zero code: %d", command, exit.ExitCode),
	})
}
