// Package volumes keeps local volumes: directories with a name that outlive
// containers.
//
// A volume is a directory of its name with the files of the containers in _data
// and its description in volume.json. It is made beside and renamed, and renamed
// before it is removed, so that it is there whole or not at all whenever the
// daemon ends; what was interrupted is cleared by Open.
//
// The package does not mount anything and knows no containers but by ID: who uses
// a volume is told by Ref after each start of the daemon, and kept in memory.
package volumes
