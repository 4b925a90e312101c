package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/opencontainers/go-digest"
)

// uploadID is an upload session as its id says: when it began, a random number,
// and the algorithm of its digest. The id is signed for its repository, so that
// it is proof that the session was begun, and to begin one writes nothing: the
// store hears of a session with its first byte.
type uploadID struct {
	text    string // as clients and stages know it
	row     []byte // key of its row: sorts by time of beginning
	started time.Time
	alg     digest.Algorithm
}

const (
	uploadRowSize = 8 + 8 + 1 // time, random number, algorithm
	uploadMACSize = 16
)

var uploadAlgorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// newUploadID makes the id of a new session.
func newUploadID(key []byte, repo string, alg digest.Algorithm, now time.Time) uploadID {
	row := make([]byte, uploadRowSize)
	binary.BigEndian.PutUint64(row, uint64(now.UnixNano()))
	_, _ = rand.Read(row[8:16]) // never fails, crypto/rand says
	for i, a := range uploadAlgorithms {
		if a == alg {
			row[16] = byte(i)
		}
	}
	text := base64.RawURLEncoding.EncodeToString(append(row, uploadMAC(key, repo, row)...))
	return uploadID{text: text, row: row[:uploadRowSize:uploadRowSize], started: now, alg: alg}
}

// parseUploadID reads an id that newUploadID made with the same key for the same
// repository.
func parseUploadID(key []byte, repo, text string) (uploadID, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != uploadRowSize+uploadMACSize {
		return uploadID{}, false
	}
	row := b[:uploadRowSize]
	if !hmac.Equal(b[uploadRowSize:], uploadMAC(key, repo, row)) || int(row[16]) >= len(uploadAlgorithms) {
		return uploadID{}, false
	}
	started := time.Unix(0, int64(binary.BigEndian.Uint64(row)))
	return uploadID{text: text, row: row, started: started, alg: uploadAlgorithms[row[16]]}, true
}

// uploadRowOf is the key of the row of the session that a stage is of, if it is one's.
func uploadRowOf(stage string) (row []byte, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(stage)
	if err != nil || len(b) != uploadRowSize+uploadMACSize {
		return nil, false
	}
	return b[:uploadRowSize], true
}

func uploadMAC(key []byte, repo string, row []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(row)
	h.Write([]byte(repo))
	return h.Sum(nil)[:uploadMACSize]
}
