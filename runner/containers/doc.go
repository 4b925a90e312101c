// Package containers keeps the records of containers on disk and knows their
// state machine.
//
// What it has acknowledged survives a crash of the daemon and of the host. It
// starts nothing and reads nothing of the kernel: which container really runs is
// for runner/containers/shim to say, and for runner/engine to reconcile.
//
// A container has a directory of its own, named by its ID:
//
//	record.json  what was asked for, written at create, at rename and at update
//	state.json   where it is in its life, written at each transition
//	upper, work  its writable layer, for overlayfs
//	logs         what it has written
//	hosts, hostname, resolv.conf
//
// A directory that is being made or removed has a name that begins with a dot,
// so that a container is there whole or not at all.
package containers
