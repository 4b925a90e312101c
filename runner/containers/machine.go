package containers

import (
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// Event is what moves a container from one status to the next.
type Event string

// The events of a container's life.
const (
	Start  Event = "start"
	Exit   Event = "exit"
	Pause  Event = "pause"
	Resume Event = "unpause"
	Remove Event = "remove"
	// Retry is an exit that a restart policy answers.
	Retry Event = "restart"
)

// transitions says which event leads where. What is missing is refused.
var transitions = map[container.ContainerState]map[Event]container.ContainerState{
	container.StateCreated: {
		Start:  container.StateRunning,
		Remove: container.StateRemoving,
	},
	container.StateRunning: {
		Exit:  container.StateExited,
		Pause: container.StatePaused,
		Retry: container.StateRestarting,
	},
	container.StatePaused: {
		Exit:   container.StateExited,
		Resume: container.StateRunning,
		Retry:  container.StateRestarting,
	},
	container.StateRestarting: {
		Start: container.StateRunning,
		Exit:  container.StateExited,
	},
	container.StateExited: {
		Start:  container.StateRunning,
		Remove: container.StateRemoving,
	},
	container.StateDead: { // what it was is not known
		Remove: container.StateRemoving,
	},
	container.StateRemoving: {
		Remove: container.StateRemoving,
	},
}

// Next returns the status that an event leads to. An event that cannot be now is
// an error of kind runner.ErrConflict whose text says what the container is, to be
// put behind its name: "is not running".
func Next(from container.ContainerState, event Event) (container.ContainerState, error) {
	if to, ok := transitions[from][event]; ok {
		return to, nil
	}
	return from, runner.Errorf(runner.ErrConflict, "%s", refusal(from, event))
}

func refusal(from container.ContainerState, event Event) string {
	switch {
	case from == container.StateRemoving:
		return "is marked for removal and cannot be changed"
	case from == container.StatePaused && event == Pause:
		return "is already paused"
	case event == Resume:
		return "is not paused"
	case from == container.StateRestarting && event == Pause:
		return "is restarting, wait until the container is running"
	case event == Pause || event == Exit || event == Retry:
		return "is not running"
	default:
		return "is " + string(from) + ": it cannot be changed by " + string(event)
	}
}
