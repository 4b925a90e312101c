// Package stats samples what containers use of processors, memory, network,
// disks and process numbers, in the form that the Docker Engine API gives it.
//
// It reads the files of the container's cgroups, of version 1 or 2, and the
// counters of the interfaces in its network namespace. While somebody watches a
// container, one loop for all containers samples it once a second, from files
// that it keeps open, and every reader gets that sample. While nobody does,
// nothing runs and nothing is open.
//
// Most containers do nothing in most seconds. What only a container that runs can
// change is not read while the kernel's count of its processor time stands still, and
// its limits only when they were set; every tenth time all is read, so that what
// somebody does in its cgroups by hand is told at most so much later. What reads as
// before is not parsed again.
//
// A controller that the host does not have leaves its part of the sample zero; so
// does a file that the kernel does not have, of which the log tells once. A file that
// is there and cannot be read is an error, and there is no sample.
// The package knows no containers, only cgroups and processes: which there are,
// its user says.
package stats
