package storage

import (
	"errors"
	"fmt"
	"slices"
)

// The names of the counters that are sums.
const (
	CountBlobs     = "blobs"     // blobs stored
	CountBytes     = "bytes"     // bytes in them
	CountManifests = "manifests" // manifests in all repositories
	CountRepos     = "repos"     // repositories with a manifest
	CountUploads   = "uploads"   // upload sessions that hold bytes

	// What all repositories use, beyond what the row of their tally says.
	CountUsed = "used" // bytes, each digest once
	CountHeld = "held" // bytes of each repository, together
	CountTags = "tags"
)

// The names of the counters that give numbers (see Next).
const (
	CountMoves   = "moves"   // moves of tags
	CountEvents  = "events"  // events for webhooks
	CountEpochs  = "epochs"  // tallies of quotas
	CountReports = "reports" // reports of nodes
)

// Numbers lists the counters that Next takes numbers from, for drivers that must
// know.
func Numbers() []string { return []string{CountMoves, CountEvents, CountEpochs, CountReports} }

// Counting is a Tx that counts without having transactions wait for each other, or
// fail. The rows of Counters show what it counts, and Put and Delete there set it.
type Counting interface {
	// Add is storage.Add.
	Add(name string, delta int64) error
	// Next is storage.Next.
	Next(name string) (int64, error)
	// Total is storage.Total.
	Total(name string) (int64, error)
}

// Add adds delta to a counter, for sums that nobody needs the value of in the same
// transaction.
func Add(tx Tx, name string, delta int64) error {
	if slices.Contains(Numbers(), name) {
		return fmt.Errorf("the counter %q is no sum", name)
	}
	if c, ok := as[Counting](tx); ok {
		return c.Add(name, delta)
	}
	_, err := Count(tx, name, delta)
	return err
}

// Next returns a number of a counter, one of Numbers, that nobody else gets: greater
// than those which transactions got that had ended when this one began. Numbers may be
// left out, and of two transactions that run at the same time the one with the lower
// number may be the later one to be seen.
func Next(tx Tx, name string) (int64, error) {
	if !slices.Contains(Numbers(), name) {
		return 0, fmt.Errorf("the counter %q gives no numbers", name)
	}
	if c, ok := as[Counting](tx); ok {
		return c.Next(name)
	}
	return Count(tx, name, 1)
}

// Total returns the value of a counter: the sum of what was added, or the last number
// that somebody got.
func Total(tx Tx, name string) (int64, error) {
	if c, ok := as[Counting](tx); ok {
		return c.Total(name)
	}
	c, err := Counters.Get(tx, Key(name))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return c.N, err
}

// Count adds delta to a counter and returns its new value. Unlike Add and Next it lets
// no two transactions count at the same time, so that whoever sees a value sees all
// that was done up to it: for what changes rarely.
func Count(tx Tx, name string, delta int64) (int64, error) {
	n, err := Total(tx, name)
	if err != nil {
		return 0, err
	}
	n += delta
	return n, Counters.Put(tx, Key(name), Counter{N: n})
}
