// Package spec turns the configuration of a container into what an OCI runtime
// runs, with the defaults of Docker: capabilities, seccomp profile, masked
// paths, mounts, devices, namespaces and limits.
//
// It promises that what it accepts is applied: Validate, asked when a container
// is created, answers with an error, in Docker's words where Docker has them,
// for everything that is wrong or that Berth does not do. What Docker discards
// with a warning because the kernel cannot do it is discarded with that warning.
//
// Its functions compute from their arguments alone. What they need to know of
// the machine is in Host, which DetectHost fills in, and in functions that the
// caller passes: FindDevices, FindPropagation and FindSourceOptions are those for
// the machine itself. Nothing here mounts, makes or starts anything, and the root's
// path is left to who starts the container.
package spec
