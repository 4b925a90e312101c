// Package volumes keeps local volumes: directories with a name that outlive
// containers.
//
// A volume is a directory of its name with the files of the containers in _data
// and its description in volume.json. It is made beside and renamed, and renamed
// before it is removed, so that it is there whole or not at all whenever the
// daemon ends; what was interrupted is cleared by Open.
//
// What the options of a volume name (type, device, o) is mounted on its _data, in
// the daemon's mount namespace, by the first who uses the volume and unmounted
// after the last: the kernel's table of mounts is the record of it, which Settle
// clears after a start of the daemon. A quota (size) is refused.
//
// The package knows no containers but by ID: who refers to a volume and who uses
// it is told by Ref and Adopt after each start of the daemon, and kept in memory.
package volumes
