// Package images is the store of images on this host: it pulls them from what a
// registry gives, keeps their blobs and their unpacked layers, and does all that
// is local: list, inspect, history, tag, remove, prune, save, load, import and
// commit.
//
// # What it promises
//
// An image is there whole or not at all. Its blobs are on disk, and its record
// committed, before an operation that makes it returns; the process may be killed
// at any instant, and what was half made then is gone after the next Open. Layers
// are unpacked into the page cache and written out behind the answer: should the
// host, not only the process, die before that, Open unpacks them again from their
// blobs.
//
// What comes from outside is hostile until it is verified. Every blob is hashed
// as it streams, and so is every layer as it is unpacked. A layer cannot make
// anything outside its own directory, and is bounded in bytes, in entries and by
// the room on the disk (Limits); if it does not hold, what it took is given back.
//
// A layer is on disk for as long as an image has it, a container was made of an
// image that has been removed since (the users that callers tell of), or somebody
// shares its tree.
//
// Who makes images on this host shares the store's files both ways: blobs by
// further names of the same files (LinkBlob, AddBuilt), trees by symbolic links to
// them (ShareTree, AddBuilt). Neither side writes to what is shared. Layers that
// came so may be uncompressed until they are exported.
//
// # How it is kept
//
//	images.db        bbolt: images, names, layers, repositories that have a blob
//	blobs/sha256/…   manifests, configurations and layers as registries have them
//	layers/N         the tree of a layer, in overlayfs's form: a whiteout is a
//	                 character device 0/0, an opaque directory has an attribute
//	ingest/          blobs that are not whole yet; empty after Open
//
// The layout is our own rather than containerd's content store, metadata and
// snapshotter, because a layer's tree does not depend on those below it: here all
// the layers of an image unpack at once, each as its bytes arrive, a directory
// gets its final name when it is made, and one transaction makes the whole image
// visible, where a snapshotter has two for each layer, and one after the other.
// Two things do depend on the layers below: directories that a layer only implies
// take their mode and owner from there, and so do hard links to files of another
// layer get their content. Both are done when all layers are unpacked; the tree
// of such a layer is known by its chain ID, of any other by its diff ID.
//
// # What it does not do
//
// It does not talk to registries (runner/images/remote does), mount anything, or
// keep more of an index than this host's image. Images have no parents: two that
// share layers are independent, and either may be removed first.
package images
