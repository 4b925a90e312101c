// Package deploy puts new versions of stacks into service without downtime, and
// takes them back.
//
// A Stack is a set of services that are deployed together; deploy/stack makes one of
// a Compose file. A Manager keeps the stacks of a host: what is to run, the revisions
// before, and what was made of them. Plan is a pure function from what is desired and
// what is observed to steps, which can be printed before they are taken.
//
// # Promises
//
//   - A published port belongs to the Traffic of the engine, not to a container. New
//     connections move from one version to the other in one transaction for the whole
//     stack; those that are established stay where they are, until they end or the
//     drain time is over.
//   - A version gets traffic only after its gate has held: the health check, or else
//     that its ports accept connections, or else that it stays up. If the gate does
//     not hold, before or after the switch, all goes back by itself.
//   - What is acknowledged is on disk. A daemon or host that is killed at any step
//     goes on, or goes back, to one of the two versions when it starts again: what the
//     Traffic has recorded decides which.
//   - A stack whose files cannot be read, be they damaged or of a newer program, is left
//     as it is: nothing of it is changed, and all others go on. It is shown with the
//     reason, read again when it is asked for and every minute, and can be removed.
//   - Containers of the version before are kept, stopped, so that a rollback only has
//     to start them.
//   - A service whose containers would be the same keeps them, whatever else of it
//     changes: replicas, ports, routes, names, strategy. One that needs another with
//     Restart is replaced with it.
//   - What is deployed over again, and is as it should be, is left as it is and makes no
//     revision. What is amiss of it is mended, as a revision of its own. A rollback leads
//     to the last revision that differs from the one in service.
//   - What runs is repaired: replicas that are missing are created, those that have
//     ended are started, those that are unhealthy, or have ended and are not ready
//     again, get no traffic while there are others, and the edge is told of new
//     addresses.
//
// # How a version comes into service
//
// Images are pulled and pinned by digest, networks and volumes made, ports of the host
// reserved that the stack did not have, and the services brought up, each after what it
// needs. Services that are replaced side by side have
// no traffic then; those that are rolled are in service batch by batch. When all have
// held their gate, the steps of canaries are gone, and then one SetTraffic moves the
// whole stack. The gate has to hold once more; then the version before is let go: its
// containers are stopped when their connections by published ports and their requests
// of the HTTP edge have ended, at the latest after the service's Drain.
//
// A service that the version before did not have is found by its name as soon as it
// runs, since those that need it look for it, and by its ports from the switch on.
//
// A job runs once for each version, before those that need it, for as long as it
// takes. What it has done is not taken back.
//
// A gate first waits for the health check to pass, at most for START_PERIOD + RETRIES
// * (INTERVAL + TIMEOUT), not less than ten seconds nor more than an hour; or for the
// ports to accept, at most for a minute. Then it watches for the service's Monitor. It
// does not hold if the container ends or restarts, or the engine calls it unhealthy.
//
// A rollback to containers that are kept waits for no Monitor and takes no steps:
// they have held their gate before. For those that are just being stopped, others like
// them are created.
//
// # What it does not do
//
// It knows nothing of Compose files, registries and proxies: deploy/stack,
// deploy/fleet and deploy/edge do. It coordinates no hosts. It does not change networks
// and volumes that containers have. Connections that go by the name of a service, not
// by a published port, are not counted when it is drained. A service that is rolled
// with stop-first and one replica is away for a moment: that is what it asks for.
package deploy
