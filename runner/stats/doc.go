// Package stats samples what containers use of processors, memory, network,
// disks and process numbers, in the form that the Docker Engine API gives it.
//
// It reads the files of the container's cgroups, of version 1 or 2, and the
// counters of the interfaces in its network namespace. While somebody watches a
// container, one loop for all containers samples it once a second, from files
// that it keeps open, and every reader gets that sample. While nobody does,
// nothing runs and nothing is open.
//
// A controller that the host does not have leaves its part of the sample zero.
// The package knows no containers, only cgroups and processes: which there are,
// its user says.
package stats
