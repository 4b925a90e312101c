// Package shim runs containers: it starts an OCI runtime (crun, runc, runsc) under
// conmon, which stays beside each container as its monitor, keeps its log,
// carries its streams and writes down how it ended.
//
// What it promises: a container does not depend on the process that made it.
// That process may end at any instant, also by SIGKILL and in the middle of a
// call; after Open another one finds every container again with its state, its
// streams and its exit, or as something that Delete clears away whole. Every
// exit of a container that was created, and of an exec that was started, comes
// out of Exits at least once, also if nobody watched when it happened. A
// container's file tree is mounted only in the mount namespace of its monitor:
// the host's table of mounts never shows it, and nothing is left of it when the
// container is gone.
//
// A container with a user namespace of its own (maps in its specification) finds
// its tree, and the mounts that its specification maps, as they are on disk: users
// are mapped by the mounts, and no owner is changed. No container gets hold of the
// host's /dev/null.
//
// What it does not do: it keeps no record of containers beyond their life
// (RunDir may vanish with a reboot, so nothing in it is synced to disk), makes
// no specification, no network and no directories of file trees, and does not
// guard a container against two callers that want different things of it beyond
// running one after the other.
//
// Files under RunDir:
//
//	rootfs                 a private tmpfs mount; each monitor has its container's tree and the runtime below it,
//	                       and in staging the mounts that the runtime only binds
//	tmp/ID                 console sockets, for a moment; the beginning of the ID
//	oci/RUNTIME            the runtime's own state
//	exits/ID               exit code, written by conmon; its time is that of the exit
//	containers/ID          the bundle: config.json, shim.json (record), pid, monitor, attach, ctl
//	containers/ID/exec/ID  the same of an exec
//	containers/ID.gone     a bundle that is being deleted
package shim
