// Package engine is the life of containers: it ties the leaves (images, build, shim,
// spec, rootfs, devices, network, volumes, logs, stats) together and is the only one that
// knows them all. runner/api serves it.
//
// It promises that what it has acknowledged survives a kill of the daemon at any
// instant: a container's record and state are on disk before a call returns, and
// Open brings both in line with what really runs. While the daemon runs, its
// memory is what counts; nothing is read back from disk. A container whose files were
// damaged costs no other its engine.
//
// One operation at a time changes a container (its turn); what only looks, such
// as a list or an inspection, never waits for one.
package engine
