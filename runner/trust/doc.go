// Package trust says which images may run on a host: by where their content was
// pulled from, and by who has signed it.
//
// # What it promises
//
// A rule is about the content of an image, never about the names that it has here.
// The content is what its digests say; a place is one that it was really pulled from
// or pushed to (runner.Origin). Of the rules of a policy the first one holds whose
// patterns match the place. An image with several origins may run if it may by one of
// them; one that was made here has the place "local". No rule for it means no, and a
// policy without rules lets everything run.
//
// Signatures are cosign's: bundles of Sigstore that refer to a manifest, and the older
// form of simple signing under the tag sha256-HEX.sig or as a referrer. They count by
// one of the rule's keys, or by a certificate with its issuer and one of its subjects,
// as the rule's trusted root verifies it (sigstore-go does: chain, time, certificate
// transparency, transparency log). A signature counts for the digest that it names, and
// for what an index of that digest lists; statements of other kinds that the same key
// has signed (bills of materials, provenance) are no signatures of an image.
//
// What registries send is hostile: lists, documents, time and memory are bounded, and a
// signature is worth what the verification says.
//
// Signatures by which an image may run are kept on disk, and are verified again after
// a restart or with another policy: so images run while their registry is away. What
// may run is remembered in memory, and costs nothing more.
//
// # What it does not do
//
// It does not know what a container or a build does with files of other origin: what is
// written, copied or mounted there that is no image. It learns nothing of signatures that
// are taken back: who must not run any more is taken out by another rule, or another key.
// It never asks the network for Sigstore's own root: a trusted root is a file.
package trust
