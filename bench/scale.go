package main

import "time"

// mb is a megabyte, here and in every figure.
const mb = 1 << 20

// scale says how much each work does.
type scale struct {
	blob       int64         // bytes of a blob that is pulled or pushed alone
	pulls      []pullLoad    // how it is pulled
	window     time.Duration // how long small requests are counted
	small      int           // clients that push small images
	readers    int           // clients that read a manifest
	page       int           // entries of a page
	entries    int           // tags of the great repository, repositories of the great registry
	scaledTags int           // tags of the great repository in PostgreSQL
	pages      int           // pages that are read in a run
	settle     time.Duration // how long a server is left alone before it counts as idle
	memory     int64         // bytes that each client pushes and pulls
	memoryLoad int           // clients that do so
	manifests  int           // on disk at a start
	growth     []int         // manifests at which cost is measured
	samples    int           // requests of each kind that are measured there in a run
	stored     int           // blobs of a registry whose garbage is collected
	garbage    int           // blobs of that which are garbage
	waste      int           // blobs of garbage that are collected while images are pushed
	glance     time.Duration // how long pushes are counted in each of many short turns
	deletes    int           // images that are deleted
	repeats    int           // how often in a run something short is done, whose median is its value
	image      int64         // bytes of an image, unpacked
	containers int           // started at once, and idle
	starters   int           // clients that start them
	listed     int           // containers in a list
	checkEvery time.Duration // interval of health checks
	watched    int           // containers whose statistics are read
	watch      time.Duration // how long, for a value
	context    int64         // bytes of the context of a build
	lookups    int           // of a name in a container, for a value
	tries      int           // of a measurement inside a container, and on its host, whose best counts
	trySeconds int           // how long each takes
	written    int64         // bytes written in it
	mirrored   int64         // bytes of an image in another registry
	neighbour  int           // turns of two that follow each other, for a value
	moves      int           // of a tag, or of a stack to the version before, for a value
	updates    int           // of a service
	nodes      int           // that follow a tag
	followed   time.Duration // how long they do so

	mirroredByMany int64 // of one that many clients pull
}

// pullLoad is a number of clients, and how often each pulls the blob: a short
// measurement would show the start of the connections.
type pullLoad struct{ clients, each int }

// newScale returns the sizes that o asks for.
func newScale(o options) scale {
	s := scale{
		blob:       256 * mb,
		pulls:      []pullLoad{{1, 8}, {8, 2}, {64, 1}},
		window:     3 * time.Second,
		small:      16,
		readers:    32,
		page:       100,
		entries:    100_000,
		scaledTags: 1_000_000,
		pages:      500,
		settle:     2 * time.Second,
		memory:     256 * mb,
		memoryLoad: 64,
		manifests:  100_000,
		growth:     []int{1_000, 10_000, 100_000},
		samples:    300,
		stored:     100_000,
		garbage:    1_000,
		waste:      100_000,
		glance:     500 * time.Millisecond,
		deletes:    2_000,
		repeats:    20,
		image:      600 * mb,
		containers: 100,
		starters:   8,
		listed:     1000,
		checkEvery: 10 * time.Second,
		watched:    1000,
		watch:      10 * time.Second,
		context:    8 * mb,
		lookups:    200,
		tries:      3,
		trySeconds: 2,
		written:    1024 * mb,
		mirrored:   1024 * mb,
		neighbour:  30,
		moves:      10,
		updates:    5,
		nodes:      100,
		followed:   30 * time.Second, // each node reports once

		mirroredByMany: 64 * mb,
	}
	switch {
	case o.full:
		s.memory = 1024 * mb
		s.mirroredByMany = 1024 * mb
		s.manifests = 1_000_000
		s.stored = 1_000_000
		s.deletes = 100_000
		s.growth = append(s.growth, 1_000_000)
	case o.quick:
		s.blob = 1 * mb
		s.window = 100 * time.Millisecond
		s.page = 10
		s.entries = 100
		s.scaledTags = 1_000
		s.pages = 5
		s.settle = 100 * time.Millisecond
		s.memory = 1 * mb
		s.memoryLoad = 4
		s.manifests = 100
		s.growth = []int{10, 100}
		s.samples = 5
		s.stored = 100
		s.garbage = 10
		s.waste = 20_000
		s.glance = 50 * time.Millisecond
		s.deletes = 10
		s.repeats = 1
		s.image = 2 * mb
		s.containers = 3
		s.listed = 5
		s.checkEvery = 500 * time.Millisecond
		s.watched = 5
		s.watch = 2 * time.Second
		s.context = mb / 4
		s.lookups = 2
		s.tries = 1
		s.trySeconds = 1
		s.written = 1 * mb
		s.mirrored = 4 * mb
		s.neighbour = 2
		s.moves = 1
		s.updates = 1
		s.nodes = 3
		s.followed = time.Second
		s.mirroredByMany = 1 * mb
	}
	if o.memorySize > 0 {
		s.memory = o.memorySize * mb
	}
	return s
}
