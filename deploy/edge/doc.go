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
//   - One that could not take over, because of an address that somebody else has for
//     example, leaves the one that serves as it is, and is tried again each minute.
//   - What SetRoutes is told is on disk and in force when it returns. Letting go of all
//     routes takes no program that serves.
//   - Stop ends all programs, those that have retired too, and forgets the routes.
//
// # How it ends
//
// The program serves for as long as it is configured, with routes or without. It ends if
// the daemon starts and is not configured to have one; or by SIGTERM, when its requests
// have ended or 10 seconds have gone by (the second one ends it at once), but then a
// daemon that runs starts it again. Its number is in the file lock of Options.Data.
//
// # What it does not do
//
// It serves no request itself: deploy/edge/proxy does, in the program. It keeps no
// routes: the program does.
package edge
