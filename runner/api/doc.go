// Package api serves the Docker Engine API over HTTP for an Engine.
//
// It promises what a client of dockerd expects of the wire: routes with and
// without a version, statuses, the texts of errors, hijacked streams with their
// frames, progress as lines of JSON, and the shapes of answers that each version
// of the API had. It holds no state of its own beyond requests that are under way:
// what there is and what happens is the engine's.
//
// The table of routes is in routes.go, the table of errors in errors.go, and all
// that depends on the version of the API in the files versions*.go.
//
// What it does not do: it does not listen, and it does not say who may connect.
// Swarms, plugins and checkpoints are answered by an error that says so.
package api
