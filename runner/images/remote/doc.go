// Package remote talks to registries for the local image store: it resolves
// names, fetches manifests and blobs, pushes, searches and logs in, with the
// rules and the words of Docker.
//
// What it promises:
//   - It speaks HTTPS, and plain HTTP only to localhost, loopback and private
//     addresses, to registries that are configured as insecure, and to URLs that
//     say http. Which of the two a host speaks is remembered for a minute.
//   - Credentials go to the registry that they are for and to the token service
//     that it names, and follow no redirect to another origin. Mirrors get only
//     credentials of their own.
//   - A blob that breaks off is taken up again where it broke off, from another
//     mirror or the registry itself if need be, a bounded number of times. A
//     server that sends nothing for a while is given up; one that is only slow is
//     not. A reader yields exactly as many bytes as the descriptor says, or fails.
//   - No manifest, list or error is read into memory beyond a limit; blobs are
//     never held.
//   - A push sends only what the registry has not, the manifest last: one that
//     breaks half way leaves no tag.
//
// It does not verify digests of what it fetches (the content store does, where
// the bytes are hashed anyway), choose among the platforms of an index, or store
// anything.
//
// Authentication is oras-go's auth.Client: challenges, token flows, their cache
// and the guards against credentials that wander are the part that is easy to
// get wrong. The rest of the protocol is a dozen plain requests, which are made
// here: oras-go's Repository cannot resume a blob or an upload, report progress,
// or fall back to HTTP, and drops what the registry said about a 404;
// containerd's resolver sends a registry's credentials to its mirrors and words
// its errors differently.
package remote
