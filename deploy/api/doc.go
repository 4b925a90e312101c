// Package api carries what a deploy.Manager does over HTTP, beside the Docker Engine
// API on the same sockets: New is the handler, Client the other end. Both speak of the
// same interface, Stacks.
//
// # Promises
//
//   - What lasts is answered with a line of JSON for each event as it happens, and one
//     at the end with the result or the error. An error keeps its kind (see package
//     runner), and a *deploy.Failure all that it says.
//   - A client that goes away, or takes nothing of what it is sent, ends its watching
//     and not the deployment.
//   - A request is read strictly: what the daemon does not know is an error, so that
//     nothing is left out that a newer command asks for. It is bounded by MaxBody.
//
// # What it does not do
//
// It checks nobody's rights: who reaches the socket may do all, as with Docker's API.
package api
