package storage

// The tables of what is used, by repository and by quota.
var (
	// Usages: repository. What it holds; no row if that is nothing.
	Usages = Table[Usage]{"usage"}
	// Tallies: see TallyKey. Sums over all repositories, and over those of each
	// quota.
	Tallies = Table[Tally]{"tallies"}
	// Shares: epoch of the tally of a quota (NumberPart), digest. How many of the
	// quota's repositories hold it.
	Shares = Table[Share]{"shares"}
)

type (
	// Usage is what a repository holds.
	Usage struct {
		Bytes int64 `cbor:"1,keyasint,omitempty"` // each digest once
		Own   int64 `cbor:"2,keyasint,omitempty"` // of these, bytes that no other repository holds
		Tags  int64 `cbor:"3,keyasint,omitempty"`
	}
	// Tally is a sum over repositories, and how far it is counted.
	Tally struct {
		Phase  uint8  `cbor:"1,keyasint,omitempty"` // of counting; see package registry
		Cursor []byte `cbor:"2,keyasint,omitempty"` // last key that the phase has counted
		Bytes  int64  `cbor:"3,keyasint,omitempty"` // each digest once
		Sum    int64  `cbor:"4,keyasint,omitempty"` // bytes of each repository, together; not of a quota
		Tags   int64  `cbor:"5,keyasint,omitempty"`
		Epoch  int64  `cbor:"6,keyasint,omitempty"` // of a quota's Shares
		Quotas []byte `cbor:"7,keyasint,omitempty"` // of all repositories: hash of which quotas are counted
	}
	// Share is how many repositories hold something.
	Share struct {
		N int64 `cbor:"1,keyasint"`
	}
)

// QuotaTallies is the prefix of the keys of the tallies of quotas.
func QuotaTallies() []byte { return Key("quota", "") }

// TallyKey is the key of the tally of a quota, by a hash of its name; of all
// repositories, if that is empty.
func TallyKey(hash string) []byte {
	if hash == "" {
		return Key("repos")
	}
	return Key("quota", hash)
}
