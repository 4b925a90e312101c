package storage

import "time"

// The tables of stages, for a driver without files of its own.
var (
	// Stages: id of a stage. What there must be known to go on with it in another
	// process.
	Stages = Table[Staged]{"stages"}
	// StageParts: id of a stage, number of the part (NumberPart, the first is 0).
	StageParts = Table[StagedPart]{"stage-parts"}
)

type (
	// Staged is what a stage holds: some parts, and a tail behind them that is
	// shorter than a part; or one whole object.
	Staged struct {
		Key      string    `cbor:"1,keyasint,omitempty"` // of the object that the parts become
		Upload   string    `cbor:"2,keyasint,omitempty"` // id of the multipart upload; empty if there is none
		Parts    int       `cbor:"3,keyasint,omitempty"` // how many there are
		Size     int64     `cbor:"4,keyasint,omitempty"` // bytes in them, or in the whole object
		Tail     string    `cbor:"5,keyasint,omitempty"` // key of the object with the tail
		TailSize int64     `cbor:"6,keyasint,omitempty"` // bytes
		Whole    bool      `cbor:"7,keyasint,omitempty"` // the parts have become the object
		Digest   string    `cbor:"8,keyasint,omitempty"` // of the blob that Key is of, if it is one's
		Rev      string    `cbor:"9,keyasint"`           // another one each time the row is written
		Updated  time.Time `cbor:"10,keyasint"`
		// Sealed says that the parts are all there are, the last one may be a short one,
		// and the server was or will be asked to make them the object.
		Sealed bool `cbor:"11,keyasint,omitempty"`
	}
	// StagedPart is a part.
	StagedPart struct {
		Size int64  `cbor:"1,keyasint"` // bytes
		ETag string `cbor:"2,keyasint"`
	}
)
