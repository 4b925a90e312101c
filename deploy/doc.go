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
//   - Containers of the version before are kept, stopped, so that a rollback only has
//     to start them.
//
// # What it does not do
//
// It knows nothing of Compose files, registries and proxies: deploy/stack,
// deploy/fleet and deploy/edge do. It coordinates no hosts.
package deploy
