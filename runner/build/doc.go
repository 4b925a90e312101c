// Package build builds images with BuildKit in this process, out of the image
// store and into it.
//
// What it promises: an image of the store is a base without a copy of its bytes.
// Its layers' trees are the snapshots of builds, by symbolic links, and its blobs
// are other names of the same files. What a build makes goes the other way: the
// tree of a new layer is moved into the store at once, and a link takes its place
// in the cache. Names of images are looked up in the store first, and at a
// registry only if it has none, or if that is asked for.
//
// The cache is only a cache. The process may be killed at any instant: Sweep
// clears what the containers of its builds leave, and the cache is used on. It is
// not written out step by step, so if the host loses its power the cache is begun
// anew, unless it was idle; what images have is theirs, and safe. It is also
// begun anew if it cannot be opened.
//
// Nothing of BuildKit takes memory before the first build.
//
// What it does not do: it keeps one platform of an image, as the store does, and
// no attestations there; results of several platforms can go elsewhere. It caches
// nothing at GitHub, S3 or Azure. Entitlements beyond the host's network are not
// given.
//
// Files under Root:
//
//	state                  whether all is on the disk, and of which run of the kernel
//	content/               blobs
//	snapshots/snapshots/N  fs is the tree of a snapshot, or a link to a layer of the image store
//	*.db                   metadata of them, and the cache of results
//	contexts/              contexts that came as archives, while they are built
//
// and under Run the bundles of the containers of steps.
package build
