package shim

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/berth-registry/berth/runner"
)

// createError returns the error of a container that the runtime could not make,
// in dockerd's words: the docker command reads its exit code out of them.
func createError(rec record, said string) error {
	detail := runtimeDetail(rec.Runtime, "create", rec.Command, "", said)
	return commandError("failed to create task for container: failed to create shim task: OCI runtime create failed: " + detail + ": unknown")
}

// startError is the same of one that it could not start.
func startError(rec record, said string) error {
	detail := runtimeDetail(rec.Runtime, "start", rec.Command, "", said)
	return commandError("failed to create task for container: failed to start shim task: OCI runtime start failed: " + detail + ": unknown")
}

// execError is the same of a further process.
func execError(r runtimeProgram, command, cwd, said string) error {
	return commandError("OCI runtime exec failed: " + runtimeDetail(r, "exec", command, cwd, said) + ": unknown")
}

// commandError is the caller's fault if the command cannot be run.
func commandError(text string) error {
	for _, fault := range []string{"executable file not found", "no such file or directory", "permission denied", "is a directory", "not a directory"} {
		if strings.Contains(text, fault) {
			return runner.Errorf(runner.ErrInvalid, "%s", text)
		}
	}
	return errors.New(text)
}

// runtimeDetail finds, in what a runtime wrote to standard error, why it failed,
// and returns it in runc's words.
func runtimeDetail(r runtimeProgram, verb, command, cwd, said string) string {
	if messages := logMessage.FindAllStringSubmatch(said, -1); len(messages) > 0 {
		if text, err := strconv.Unquote(messages[len(messages)-1][1]); err == nil {
			return text // runc's, already with "runc create failed: …"
		}
	}
	text := strings.Join(strings.Fields(said), " ")
	if text == "" {
		text = "the runtime gave no reason"
	}
	prefix := r.Name + " " + verb + " failed: "
	if verb == "exec" {
		prefix = "exec failed: "
	}
	return prefix + "unable to start container process: " + crunDetail(command, cwd, text)
}

var (
	logMessage  = regexp.MustCompile(`level=(?:error|fatal) msg=("(?:[^"\\]|\\.)*")`)
	crunMissing = regexp.MustCompile("executable (?:file|path) `([^`]*)` not found")
	crunOpen    = regexp.MustCompile("open executable|executable file `[^`]*`:|open `[^`]*`: (Permission denied|Is a directory)$")
	crunChdir   = regexp.MustCompile("^chdir(?: to)?(?: `[^`]*`)?: (.*)$")
	systemError = regexp.MustCompile(`: ([A-Z])([a-z]+(?: [a-z/]+)*)$`)
)

// crunDetail turns what crun says into what runc would.
func crunDetail(command, cwd, text string) string {
	if m := crunMissing.FindStringSubmatch(text); m != nil {
		if strings.Contains(m[1], "/") {
			return "exec: " + strconv.Quote(m[1]) + ": stat " + m[1] + ": no such file or directory"
		}
		return "exec: " + strconv.Quote(m[1]) + ": executable file not found in $PATH"
	}
	if crunOpen.MatchString(text) {
		// crun says "Operation not permitted" of what is not a regular file.
		return "exec: " + strconv.Quote(command) + ": permission denied"
	}
	text = systemError.ReplaceAllStringFunc(text, strings.ToLower)
	if m := crunChdir.FindStringSubmatch(text); m != nil && cwd != "" {
		return "chdir to cwd (" + strconv.Quote(cwd) + ") set in config.json failed: " + m[1]
	}
	return text
}
