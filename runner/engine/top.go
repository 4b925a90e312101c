package engine

import (
	"bytes"
	"context"
	osexec "os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// TopContainer implements runner/api's Containers: it asks the host's ps for the
// processes in the container's cgroup.
func (e *Engine) TopContainer(ctx context.Context, ref, psArgs string) (container.TopResponse, error) {
	c, err := e.find(ref)
	if err != nil {
		return container.TopResponse{}, err
	}
	if _, st := c.snapshot(); !st.Running() {
		return container.TopResponse{}, runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	if psArgs == "" {
		psArgs = "-ef"
	}
	if err := checkPSArgs(psArgs); err != nil {
		return container.TopResponse{}, err
	}
	args := strings.Fields(psArgs)
	pids, err := e.shim.PIDs(c.id)
	if err != nil {
		return container.TopResponse{}, err
	}
	out, err := ps(ctx, args, pids)
	if err != nil {
		return container.TopResponse{}, err
	}
	resp, err := parsePS(out, pids)
	if err == nil {
		e.containerEvent(c, events.ActionTop)
	}
	return resp, err
}

// renamedPID finds columns that are given the title PID and are another.
var renamedPID = regexp.MustCompile(`\s+(\S*)=\s*(PID\S*)`)

// checkPSArgs refuses a column that would be taken for that of the processes'
// numbers.
func checkPSArgs(args string) error {
	for _, m := range renamedPID.FindAllStringSubmatch(args, -1) {
		if m[1] != "pid" {
			return runner.Errorf(runner.ErrInvalid, "specifying \"%s=%s\" is not allowed", m[1], m[2])
		}
	}
	return nil
}

// fieldsASCII splits a line at its blanks. What else Unicode has of them a process
// may have in its name.
func fieldsASCII(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\v' || r == '\f' || r == '\r' })
}

// ps runs ps for the processes alone; where the options do not go together with
// a choice of processes, for all.
func ps(ctx context.Context, args []string, pids []int) ([]byte, error) {
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	chosen := append(slices.Clone(args), "-q", strings.Join(list, ","))
	if out, err := osexec.CommandContext(ctx, "ps", chosen...).Output(); err == nil {
		return out, nil
	}
	cmd := osexec.CommandContext(ctx, "ps", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "ps: %s (%w)", strings.TrimSpace(stderr.String()), err)
	}
	return out, nil
}

// parsePS picks the lines of the processes out of a table of ps.
func parsePS(out []byte, pids []int) (container.TopResponse, error) {
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	titles := fieldsASCII(lines[0])
	column := slices.Index(titles, "PID")
	if column < 0 {
		return container.TopResponse{}, runner.Errorf(runner.ErrInvalid, "Couldn't find PID field in ps output")
	}
	resp := container.TopResponse{Titles: titles, Processes: [][]string{}}
	mine := false
	for _, line := range lines[1:] {
		fields := fieldsASCII(line)
		if len(fields) == 0 {
			continue
		}
		// A line that names no process, such as one of its threads, goes with the
		// one before.
		if len(fields) > column && fields[column] != "-" {
			pid, err := strconv.Atoi(fields[column])
			if err != nil {
				return resp, runner.Errorf(runner.ErrInvalid, "Unexpected pid '%s': %w", fields[column], err)
			}
			mine = slices.Contains(pids, pid)
		}
		if !mine {
			continue
		}
		if len(fields) > len(titles) { // the last column may have spaces
			last := len(titles) - 1
			fields = append(fields[:last], strings.Join(fields[last:], " "))
		}
		resp.Processes = append(resp.Processes, fields)
	}
	return resp, nil
}
