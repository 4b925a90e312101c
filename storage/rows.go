package storage

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/opencontainers/go-digest"
)

// The tables of a registry. A key is made of parts (see Key); the comment at
// each table names them. Rows are CBOR maps with small integers for field names
// (RFC 8949), so that fields can be added without a migration.
var (
	// Settings: name. What the store must remember about itself.
	Settings = Table[Setting]{"settings"}
	// Counters: name. Sums that would be costly to compute, and numbers (see Counting).
	Counters = Table[Counter]{"counters"}
	// Repos: repository. There is a row if and only if the repository has at
	// least one manifest.
	Repos = Table[Repo]{"repos"}
	// Stored: digest. Every blob whose bytes are stored, manifests included.
	Stored = Table[Blob]{"blobs"}
	// Links: repository, digest. Blobs that can be read in the repository.
	Links = Table[Link]{"links"}
	// Holders: digest, repository. Who needs the bytes: links the other way
	// round and manifests; for mounts that name no source and for collection.
	Holders = Table[Mark]{"holders"}
	// Manifests: repository, digest.
	Manifests = Table[Manifest]{"manifests"}
	// Parents: repository, digest of what is referenced, digest of the manifest
	// that references it.
	Parents = Table[Mark]{"parents"}
	// Referrers: repository, digest of the subject, digest of the referrer.
	Referrers = Table[Referrer]{"referrers"}
	// Tags: repository, tag.
	Tags = Table[Tag]{"tags"}
	// Tagged: repository, digest, tag. Tags the other way round.
	Tagged = Table[Mark]{"tagged"}
	// History: repository, tag, number of the move (NumberPart of CountMoves).
	History = Table[TagMove]{"history"}
	// Past: repository, digest, tag, number of the move. History by what a tag
	// named, for collection.
	Past = Table[Mark]{"past"}
	// Reviews: when it is due (NumberPart of microseconds since 1970), kind,
	// repository, digest; see ReviewKey. What may be garbage, to be looked at then.
	Reviews = Table[Review]{"reviews"}
	// RunningOn: digest, node. What a node reports that it runs.
	RunningOn = Table[NodeLease]{"running"}
	// Changed: repository. Those that have changed since they were noted.
	Changed = Table[Counter]{"changed"}
	// Uploads: id of an upload session that has received a byte, or that has
	// ended and must not be used again.
	Uploads = Table[Upload]{"uploads"}

	// Accounts: name of the account.
	Accounts = Table[Account]{"accounts"}
	// APIKeys: id of the key.
	APIKeys = Table[APIKey]{"api-keys"}
	// RefreshTokens: id of the token.
	RefreshTokens = Table[RefreshToken]{"refresh-tokens"}
	// Signers: id of the key that signs tokens.
	Signers = Table[Signer]{"signers"}
	// Outbox: name of a webhook, number of the event (NumberPart of CountEvents).
	Outbox = Table[Delivery]{"outbox"}

	// PulledTags: repository, tag. When a manifest was read by its tag last.
	PulledTags = Table[Pull]{"pulled-tags"}
	// PulledDigests: repository, digest. When a manifest that has a tag was read by
	// its digest last; in a cache of another registry, when any manifest or blob was
	// read, or when the blob came there.
	PulledDigests = Table[Pull]{"pulled-digests"}
)

// Tables lists the name of each table, for drivers that create them.
func Tables() []string {
	return []string{
		Settings.name, Counters.name, Repos.name, Stored.name, Links.name, Holders.name, Manifests.name,
		Parents.name, Referrers.name, Tags.name, Tagged.name, History.name, Past.name, Reviews.name, RunningOn.name, Nodes.name, Runs.name, Changed.name, Uploads.name,
		Accounts.name, APIKeys.name, RefreshTokens.name, Signers.name, Outbox.name,
		PulledTags.name, PulledDigests.name,
		Usages.name, Tallies.name, Shares.name,
		Damages.name, Scrubs.name,
		Stages.name, StageParts.name,
		Leases.name, Holds.name, Collecting.name,
		Replicas.name, AccountChanges.name, Guesses.name,
		Mirrored.name, MirrorJobs.name,
		Replications.name, ReplicationsDue.name, Replicated.name,
		Rollouts.name, Followers.name, FollowerLogs.name, RolloutFailures.name, Followed.name, Returns.name,
	}
}

type (
	// Setting is a value that is written once.
	Setting struct {
		Value []byte `cbor:"1,keyasint"`
	}
	// Counter is a sum.
	Counter struct {
		N int64 `cbor:"1,keyasint"`
	}
	// Mark is a row whose key says everything.
	Mark struct{}
	// Repo is a repository that has manifests.
	Repo struct {
		Manifests   int64     `cbor:"1,keyasint"`           // how many there are
		Description string    `cbor:"2,keyasint,omitempty"` // of the image pushed last by tag
		Updated     time.Time `cbor:"3,keyasint"`           // of the last push
	}
	// Blob says that bytes are stored.
	Blob struct {
		Size    int64     `cbor:"1,keyasint"` // bytes
		Created time.Time `cbor:"2,keyasint"`
		Watch
		// Deleting is the tombstone: the bytes are being deleted, and nothing may
		// come to need them before this row is gone.
		Deleting bool `cbor:"22,keyasint,omitempty"`
	}
	// Watch is part of a row that may be garbage: when it is to be reviewed, and
	// until when it is kept in any case.
	Watch struct {
		Due   int64 `cbor:"20,keyasint,omitempty"` // microseconds since 1970; 0 if no review is queued
		Lease int64 `cbor:"21,keyasint,omitempty"` // microseconds since 1970
	}
	// NodeLease says until when a node keeps what it runs.
	NodeLease struct {
		Until time.Time `cbor:"1,keyasint"`
	}
	// Review is a row to be reviewed.
	Review struct {
		Kind   ReviewKind `cbor:"1,keyasint"`
		Repo   string     `cbor:"2,keyasint,omitempty"`
		Digest string     `cbor:"3,keyasint"`
		Since  time.Time  `cbor:"4,keyasint"`           // when it may have become garbage
		Tries  int        `cbor:"5,keyasint,omitempty"` // that failed
	}
	// Link makes a blob readable in a repository.
	Link struct {
		Size int64 `cbor:"1,keyasint"` // bytes
		Watch
	}
	// Manifest is a manifest in a repository. Its bytes are a blob.
	Manifest struct {
		MediaType string    `cbor:"1,keyasint"`
		Size      int64     `cbor:"2,keyasint"` // bytes
		Pushed    time.Time `cbor:"3,keyasint"`
		Subject   string    `cbor:"4,keyasint,omitempty"` // digest of what it refers to
		Refs      []byte    `cbor:"5,keyasint,omitempty"` // DigestParts of what must be present, joined
		Sparse    bool      `cbor:"6,keyasint,omitempty"` // Refs may be absent
		Watch
	}
	// Referrer is what a list of referrers shows of a manifest with a subject.
	Referrer struct {
		MediaType    string            `cbor:"1,keyasint"`
		Size         int64             `cbor:"2,keyasint"` // bytes
		ArtifactType string            `cbor:"3,keyasint,omitempty"`
		Annotations  map[string]string `cbor:"4,keyasint,omitempty"`
	}
	// Tag is where a tag points.
	Tag struct {
		Digest string    `cbor:"1,keyasint"`
		Moved  time.Time `cbor:"2,keyasint"`
		Again  time.Time `cbor:"3,keyasint,omitempty"` // when it was last pushed without being moved; zero for never
	}
	// TagMove is where a tag pointed from a time on; an empty digest says that it
	// was deleted.
	TagMove struct {
		Digest string    `cbor:"1,keyasint,omitempty"`
		Moved  time.Time `cbor:"2,keyasint"`
		By     string    `cbor:"3,keyasint,omitempty"` // account that moved it
	}
	// Upload is the state of an upload session.
	Upload struct {
		State   UploadState `cbor:"1,keyasint"`
		Size    int64       `cbor:"2,keyasint"`           // bytes received and durable
		Hash    []byte      `cbor:"3,keyasint,omitempty"` // state of the hash over them
		Updated time.Time   `cbor:"4,keyasint"`
		Digest  string      `cbor:"5,keyasint,omitempty"` // of the blob, once committed
		Writer  string      `cbor:"6,keyasint,omitempty"` // random; who writes to it, if there are several processes
		Beat    int64       `cbor:"7,keyasint,omitempty"` // grows while somebody does
		Wanted  bool        `cbor:"8,keyasint,omitempty"` // somebody else wants to
	}
)

type (
	// Account is somebody whom the registry itself knows.
	Account struct {
		Robot    bool      `cbor:"1,keyasint,omitempty"` // has no password, only API keys
		Password []byte    `cbor:"2,keyasint,omitempty"` // bcrypt's
		Groups   []string  `cbor:"3,keyasint,omitempty"`
		Epoch    int64     `cbor:"4,keyasint"` // grows with each change of the password
		Created  time.Time `cbor:"5,keyasint"`
		Disabled bool      `cbor:"6,keyasint,omitempty"`
	}
	// APIKey is a secret that an account signs in with, and what it may be used for.
	APIKey struct {
		Account string     `cbor:"1,keyasint"`
		Source  string     `cbor:"2,keyasint"` // that vouched for the account
		Groups  []string   `cbor:"3,keyasint,omitempty"`
		Hash    []byte     `cbor:"4,keyasint"` // SHA-256 of the secret
		Grants  []KeyGrant `cbor:"5,keyasint,omitempty"`
		Created time.Time  `cbor:"6,keyasint"`
		Expires time.Time  `cbor:"7,keyasint,omitempty"` // zero for never
		Used    time.Time  `cbor:"8,keyasint,omitempty"` // about when it was used last
		Note    string     `cbor:"9,keyasint,omitempty"` // what it is for
	}
	// KeyGrant limits a key to actions in the repositories that a pattern matches.
	KeyGrant struct {
		Repos   string `cbor:"1,keyasint"`
		Actions uint8  `cbor:"2,keyasint"` // set
	}
	// RefreshToken is what a client gets new registry tokens with.
	RefreshToken struct {
		Account string            `cbor:"1,keyasint"`
		Source  string            `cbor:"2,keyasint"`
		Groups  []string          `cbor:"3,keyasint,omitempty"`
		Claims  map[string]string `cbor:"4,keyasint,omitempty"`
		Key     string            `cbor:"5,keyasint,omitempty"` // id of the API key that it was got with
		Epoch   string            `cbor:"6,keyasint,omitempty"`
		Grants  []KeyGrant        `cbor:"7,keyasint,omitempty"`
		Limited bool              `cbor:"8,keyasint,omitempty"` // Grants limit it, even if there are none
		Hash    []byte            `cbor:"9,keyasint"`           // SHA-256 of the secret
		Created time.Time         `cbor:"10,keyasint"`
		Expires time.Time         `cbor:"11,keyasint"`
	}
	// Signer is a key that signs tokens.
	Signer struct {
		Private []byte    `cbor:"1,keyasint"` // PKCS #8
		Created time.Time `cbor:"2,keyasint"`
		Retired time.Time `cbor:"3,keyasint,omitempty"` // from when on it signs no more, only verifies
	}
	// Delivery is an event on its way to a webhook.
	Delivery struct {
		ID    string    `cbor:"1,keyasint"` // of the event
		Body  []byte    `cbor:"2,keyasint"` // what is sent
		Tries int       `cbor:"3,keyasint,omitempty"`
		Due   time.Time `cbor:"4,keyasint,omitempty"` // not to be sent before
		Made  time.Time `cbor:"5,keyasint"`
		Taken bool      `cbor:"6,keyasint,omitempty"` // somebody sends it and those behind it, until Due at most
	}
)

// Pull says when something was pulled last, to within an hour.
type Pull struct {
	At time.Time `cbor:"1,keyasint"`
}

// Pushed is when the tag was pushed last, moved by that or not.
func (t Tag) Pushed() time.Time {
	if t.Again.After(t.Moved) {
		return t.Again
	}
	return t.Moved
}

// ReviewKind is what a review is of.
type ReviewKind uint8

// The kinds of reviews.
const (
	ReviewManifest ReviewKind = iota + 1 // a manifest of a repository
	ReviewLink                           // a blob of a repository
	ReviewBlob                           // bytes
)

// ReviewKey is the key of a review that is due at a time, in microseconds since
// 1970. repo is empty for bytes.
func ReviewKey(due int64, kind ReviewKind, repo string, d digest.Digest) []byte {
	return Key(NumberPart(due), string(rune(kind)), repo, DigestPart(d))
}

// UploadState says what has become of an upload session.
type UploadState uint8

// The states of an upload session.
const (
	UploadOpen      UploadState = iota // it receives bytes
	UploadCommitted                    // it became a blob
	UploadCanceled                     // its client gave it up
)

// Key joins parts into the key of a row, a zero byte between them: rows sort by
// their first part, then by the next. Repositories and tags hold no zero byte
// and the parts of DigestPart have a length that their first byte tells, so no
// two lists of parts of a table give the same key. A last part that is empty
// makes the prefix of all the keys that start with the others.
func Key(parts ...string) []byte {
	return []byte(strings.Join(parts, "\x00"))
}

// Table is a table of rows of one type.
type Table[V any] struct{ name string }

// Name is the name by which drivers know the table.
func (t Table[V]) Name() string { return t.name }

// Get returns a row, or ErrNotFound.
func (t Table[V]) Get(tx Tx, key []byte) (V, error) {
	var v V
	b, err := tx.Get(t.name, key)
	if err != nil {
		return v, err
	}
	err = t.decode(b, &v)
	return v, err
}

// Has says whether there is a row.
func (t Table[V]) Has(tx Tx, key []byte) (bool, error) {
	_, err := tx.Get(t.name, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Put inserts or replaces a row.
func (t Table[V]) Put(tx Tx, key []byte, v V) error {
	b, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a row of %s: %w", t.name, err)
	}
	return tx.Put(t.name, key, b)
}

// Delete removes a row, if it is there.
func (t Table[V]) Delete(tx Tx, key []byte) error { return tx.Delete(t.name, key) }

// Scan yields rows as Tx.Scan does.
func (t Table[V]) Scan(tx Tx, prefix, after []byte) iter.Seq2[Entry[V], error] {
	return func(yield func(Entry[V], error) bool) {
		for row, err := range tx.Scan(t.name, prefix, after) {
			var e Entry[V]
			if err == nil {
				e.Key, e.Rest = row.Key, row.Key[len(prefix):]
				err = t.decode(row.Value, &e.Value)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (t Table[V]) decode(b []byte, v *V) error {
	if err := cbor.Unmarshal(b, v); err != nil {
		return fmt.Errorf("damaged row of %s: %w", t.name, err)
	}
	return nil
}

// Entry is a row with its key.
type Entry[V any] struct {
	Key   []byte
	Rest  []byte // Key without the prefix of the scan
	Value V
}

// encMode writes times as seconds since 1970 with a fraction.
var encMode = func() cbor.EncMode {
	m, err := cbor.EncOptions{Time: cbor.TimeUnixMicro}.EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()
