package scrub_test

import "github.com/berth-registry/berth/storage"
import "github.com/opencontainers/go-digest"

func (w *world) dump(d digest.Digest) {
	_ = w.meta.View(w.t.Context(), func(tx storage.Tx) error {
		k := storage.Key(storage.DigestPart(d))
		b, err := storage.Stored.Get(tx, k)
		w.t.Logf("stored %+v %v", b, err)
		dm, err := storage.Damages.Get(tx, k)
		w.t.Logf("damage %+v %v", dm, err)
		for e, err := range storage.Reviews.Scan(tx, nil, nil) {
			if e.Value.Digest == string(d) {
				w.t.Logf("review %x %+v %v", e.Key, e.Value, err)
			}
		}
		for e := range storage.Holders.Scan(tx, storage.Key(storage.DigestPart(d), ""), nil) {
			w.t.Logf("holder %s", e.Rest)
		}
		return nil
	})
}
