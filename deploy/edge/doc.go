// Package edge is the HTTP edge of a host, for those who tell it what to serve: it
// starts the program berth-edge, keeps it running, and speaks to it.
//
// # Promises
//
//   - The program outlives the daemon: one that is killed, restarted or replaced does
//     not touch a request. The next one finds the program that runs.
//   - A program of another version or with other options is replaced without a
//     connection refused: the new one takes the listening sockets over from the old,
//     which goes on until its requests have ended.
//   - A program that has ended is started again, ever more slowly if it keeps ending.
//     It comes back with the routes that it had.
//   - What SetRoutes is told is on disk and in force when it returns.
//
// # What it does not do
//
// It serves no request itself: deploy/edge/proxy does, in the program. It keeps no
// routes: the program does.
package edge
