package deploy

import (
	"log/slog"
)

// Options configure a Manager.
type Options struct {
	Dir    string // that it keeps stacks and revisions in
	Engine Engine
	Edge   Edge // nil: a stack with routes is refused
	// History is how many revisions of a stack are remembered.
	History int
	Log     *slog.Logger
}
