package storage

import "time"

// The tables of what several servers know together; the comments name the parts of
// their keys.
var (
	// Replicas: id of a server that shares the store with others; see package replicas.
	Replicas = Table[Replica]{"replicas"}
	// AccountChanges: number of the change (NumberPart). What has changed lately of
	// accounts and API keys; the last some of them, without gaps.
	AccountChanges = Table[AccountChange]{"account-changes"}
	// Guesses: kind and hash of who guesses what. Logins that have failed lately.
	Guesses = Table[Guess]{"guesses"}
)

type (
	// Replica is a server that lives, or that has died lately.
	Replica struct {
		Beat  int64     `cbor:"1,keyasint"` // grows every few seconds
		Since time.Time `cbor:"2,keyasint"` // when it began, by its own clock
	}
	// AccountChange names the rows of Accounts and APIKeys that a change has put or
	// deleted.
	AccountChange struct {
		Accounts []string `cbor:"1,keyasint,omitempty"`
		Keys     []string `cbor:"2,keyasint,omitempty"`
	}
	// Guess counts logins that have failed. The count goes down by itself as time
	// passes.
	Guess struct {
		Level float64   `cbor:"1,keyasint"`
		At    time.Time `cbor:"2,keyasint"`           // of the level
		Due   time.Time `cbor:"3,keyasint,omitempty"` // when the next attempt may be made
		Until time.Time `cbor:"4,keyasint"`           // from when on the row says nothing
	}
)
