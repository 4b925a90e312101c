package gate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// digest stands for an account and a password: without the gate's key, it tells
// nothing of them.
type digest [sha256.Size]byte

// keyedHash is an HMAC that is used again: every request with a password needs one.
type keyedHash struct {
	hash.Hash
	buf []byte
}

// keyedHashes makes them, all with one key that nobody else knows.
func keyedHashes() *sync.Pool {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails: crypto/rand
	return &sync.Pool{New: func() any { return &keyedHash{Hash: hmac.New(sha256.New, key)} }}
}

func (g *Gate) digest(account, password string) (d digest) {
	h := g.keyed.Get().(*keyedHash)
	defer g.keyed.Put(h)
	h.buf = binary.BigEndian.AppendUint64(h.buf[:0], uint64(len(account)))
	h.buf = append(append(h.buf, account...), password...)
	h.Reset()
	_, _ = h.Write(h.buf) // never fails: hash.Hash
	clear(h.buf)
	h.buf = h.Sum(h.buf[:0])
	copy(d[:], h.buf)
	return d
}
