package storage

import "time"

var (
	// Damages is the table of damaged bytes. Its keys are digests. Who reads takes
	// the bytes for unknown while there is a row.
	Damages = Table[Damage]{"damages"}
	// Scrubs is the table of how far the scrub is. It has one row, ScrubKey.
	Scrubs = Table[Scrub]{"scrub"}
)

// ScrubKey is the key of the one row of Scrubs.
var ScrubKey = Key("state")

type (
	// Damage says that stored bytes are not what they should be.
	Damage struct {
		Kind  DamageKind `cbor:"1,keyasint"`
		Since time.Time  `cbor:"2,keyasint"` // when it was found
		Size  int64      `cbor:"3,keyasint"` // bytes that there should be
		// Moving is set while it is checked once more and the bytes are moved away.
		// Nobody may come to rely on bytes that arrive meanwhile: they may be moved
		// away, too.
		Moving bool `cbor:"4,keyasint,omitempty"`
		// Kept says that the bytes can be looked at, in the quarantine.
		Kept bool `cbor:"5,keyasint,omitempty"`
		// Mover is the process that moves the bytes away, if there are several, and Until
		// is how long others leave that to it.
		Mover string    `cbor:"6,keyasint,omitempty"`
		Until time.Time `cbor:"7,keyasint,omitempty"`
	}
	// Scrub is a round of the scrub that goes on, and what the last one found.
	Scrub struct {
		Wanted  time.Time `cbor:"1,keyasint,omitempty"` // when somebody asked for a round; zero once it has begun
		Began   time.Time `cbor:"2,keyasint,omitempty"` // of the round that goes on; zero between two
		Listing bool      `cbor:"3,keyasint,omitempty"` // all is read; what nobody knows is looked for
		After   string    `cbor:"4,keyasint,omitempty"` // digest that was checked last
		Blobs   int64     `cbor:"5,keyasint,omitempty"` // checked in the round
		Bytes   int64     `cbor:"6,keyasint,omitempty"` // in them
		Damaged int64     `cbor:"7,keyasint,omitempty"` // of them
		Leaked  int64     `cbor:"8,keyasint,omitempty"` // blobs that nobody knows, handed to collection
		Last    ScrubDone `cbor:"9,keyasint"`
	}
	// ScrubDone is a round of the scrub that has ended.
	ScrubDone struct {
		Began    time.Time `cbor:"1,keyasint,omitempty"`
		Finished time.Time `cbor:"2,keyasint,omitempty"` // zero if there never was one
		Blobs    int64     `cbor:"3,keyasint,omitempty"`
		Bytes    int64     `cbor:"4,keyasint,omitempty"`
		Damaged  int64     `cbor:"5,keyasint,omitempty"`
		Leaked   int64     `cbor:"6,keyasint,omitempty"`
	}
)

// DamageKind is what is wrong with bytes.
type DamageKind uint8

// The kinds of damage.
const (
	DamageMissing    DamageKind = iota + 1 // there are none
	DamageSize                             // they are more or fewer
	DamageDigest                           // they are others
	DamageUnreadable                       // the medium does not give them
)

// String names the kind.
func (k DamageKind) String() string {
	switch k {
	case DamageMissing:
		return "missing"
	case DamageSize:
		return "size"
	case DamageDigest:
		return "digest"
	case DamageUnreadable:
		return "unreadable"
	}
	return "unknown"
}
