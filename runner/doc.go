// Package runner declares the nouns of the engine that all its packages speak:
// requests, the record and the state of a container, streams, progress, filters
// and the kinds of errors.
//
// Where the Docker Engine API has a type for a noun (a container's Config and
// HostConfig, an image's summary, an event), that type is used as it is, from
// github.com/moby/moby/api/types. What is declared here is what the API leaves
// to the engine.
//
// The package does nothing: runner/engine does, and the leaves below it
// (runner/images, runner/build, runner/containers, runner/devices,
// runner/network, runner/volumes, runner/logs, runner/stats), which know this
// package and not each other.
package runner
