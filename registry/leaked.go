package registry

import (
	"context"
	"time"

	"github.com/berth-registry/berth/storage"
)

// leakedAge is how old bytes must be that nobody knows, so that no push can be about
// to make them known.
const leakedAge = 24 * time.Hour

// Adopt takes in bytes of the blob store that the metadata does not know, as a crash
// leaves them between their arrival and the transaction that makes them known: they
// are garbage from then on, for Collect to remove by its rules, which a push of the
// same bytes knows. Those that came only lately are left alone. It returns what it
// has taken in.
func (l *Local) Adopt(ctx context.Context, found []storage.BlobInfo) (adopted []storage.BlobInfo, err error) {
	age := max(leakedAge, l.keeping.Load().Lease)
	unknown := func(tx storage.Tx) ([]storage.BlobInfo, error) {
		var list []storage.BlobInfo
		for _, info := range found {
			if l.now().Sub(info.Modified) < age {
				continue
			}
			known, err := storage.Stored.Has(tx, watchedBlobs.key("", info.Digest))
			if err != nil {
				return nil, err
			}
			if !known {
				list = append(list, info)
			}
		}
		return list, nil
	}
	err = l.meta.View(ctx, func(tx storage.Tx) (err error) {
		adopted, err = unknown(tx)
		return err
	})
	if err != nil || len(adopted) == 0 {
		return nil, err
	}
	err = l.change(ctx, func(tx *changing) (err error) {
		if adopted, err = unknown(tx); err != nil {
			return err
		}
		for _, info := range adopted {
			if err := tx.adopt(info); err != nil {
				return err
			}
		}
		return nil
	})
	return adopted, err
}

// adopt writes the row of bytes, and queues a review of them, which also sees whether
// a repository needs them after all.
func (c *changing) adopt(info storage.BlobInfo) error {
	if err := putStored(c, info.Digest, info.Size); err != nil {
		return err
	}
	return watchedBlobs.queue(c, "", info.Digest, c.now.UnixMicro())
}
