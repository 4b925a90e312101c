// Package fleet has this host run what a tag of a registry names: a stack that was
// published there (see deploy/artifact). Hosts that follow one tag are a fleet.
// Nothing but the registry coordinates them.
//
// A Follower tells the registry what it runs and how that went, and is told what to
// run: what the tag names, or what runs already as long as it is not its turn. It has
// a Manager of stacks make that so.
//
// # Promises
//
//   - A tag that has moved is acted on within two seconds: the registry is watched, or
//     asked by conditional HEADs if it is not a Berth. A HEAD knows nothing of turns:
//     what it names is taken at once.
//   - While the registry is away, or refuses, what runs goes on running and is kept as
//     it should be by the Manager. The Follower tries again with growing pauses, of
//     seconds at most.
//   - If the tag moves while a version is deployed, that is taken back, and what the
//     tag names then is deployed.
//   - A version that failed is not tried again until the tag has named another, or the
//     rollout was resumed. That is remembered on disk.
//   - What did not come to the point of failing by itself is tried three times: an image
//     that could not be pulled, a runner that was killed in the middle.
//   - The fleet has the last word: what somebody has deployed by hand is replaced by
//     what the registry says, which is logged.
//
// # What it does not do
//
// It does not choose whose turn it is (the registry does), repair what drifts from a
// revision (the Manager does), or remove a stack whose tag is gone. A stack that was
// scaled by hand stays so until the next version.
package fleet
