package registry

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// needed says why a manifest is needed, and until when if that is known, in
// microseconds since 1970; or nothing.
func (c *changing) needed(repo string, d digest.Digest, row *storage.Manifest) (why string, until int64, err error) {
	if cache, ok := c.quotas().caches.of(repo); ok {
		return c.cached(cache, repo, d, row)
	}
	part := storage.DigestPart(d)
	if c.local.keeping.Load().Untagged {
		return "untagged manifests are kept", 0, nil
	}
	tagged, err := hasAny(storage.Tagged.Scan(c, storage.Key(repo, part, ""), nil))
	if tagged || err != nil {
		return "a tag names it", 0, err
	}
	parent, err := hasAny(storage.Parents.Scan(c, storage.Key(repo, part, ""), nil))
	if parent || err != nil {
		return "an index needs it", 0, err
	}
	if row.Subject != "" {
		subject, err := storage.Manifests.Has(c, storage.Key(repo, storage.DigestPart(digest.Digest(row.Subject))))
		if subject || err != nil {
			return "its subject is there", 0, err
		}
	}
	if until, err = c.running(part); until != 0 || err != nil {
		return "a node runs it", until, err
	}
	if until, err = c.remembered(repo, part); until != 0 || err != nil {
		return "a tag named it lately", until, err
	}
	if until, err = c.rolledOut(repo, part); until != 0 || err != nil {
		return "a rollout may return to it", until, err
	}
	return "", 0, nil
}

// running is until when nodes keep what they run; 0 if none does.
func (c *changing) running(part string) (until int64, err error) {
	for e, err := range storage.RunningOn.Scan(c, storage.Key(part, ""), nil) {
		if err != nil {
			return 0, err
		}
		if at := e.Value.Until.UnixMicro(); e.Value.Until.After(c.now) {
			until = max(until, at)
		}
	}
	return until, nil
}

// rolledOut is until when a rollout keeps a manifest that nodes may return to: it is to
// be looked at again then. 0 if none does.
func (c *changing) rolledOut(repo, part string) (until int64, err error) {
	kept, err := hasAny(storage.Returns.Scan(c, storage.Key(repo, part, ""), nil))
	if kept {
		until = c.now.Add(max(c.local.keeping.Load().Grace, time.Minute)).UnixMicro()
	}
	return until, err
}

// remembered is until when the history of tags keeps a manifest; 0 if it does not.
func (c *changing) remembered(repo, part string) (until int64, err error) {
	keep := c.local.keeping.Load()
	prefix := storage.Key(repo, part, "")
	for e, err := range storage.Past.Scan(c, prefix, nil) {
		if err != nil {
			return 0, err
		}
		tag, n, err := storage.CutTagMove(e.Rest)
		if err != nil {
			return 0, err
		}
		replaced, moves, err := c.later(repo, tag, n, keep.Moves)
		if err != nil {
			return 0, err
		}
		if end := replaced.Add(keep.History); end.After(c.now) {
			until = max(until, end.UnixMicro())
		}
		if moves <= keep.Moves {
			until = max(until, c.now.Add(max(keep.Grace, time.Minute)).UnixMicro()) // to be looked at again
		}
	}
	return until, nil
}

// later says when a tag moved on from where its move n had it, and how many moves
// there were after that, up to most+1.
func (c *changing) later(repo, tag string, n int64, most int) (replaced time.Time, moves int, err error) {
	for e, err := range storage.History.Scan(c, storage.Key(repo, tag, ""), storage.Key(repo, tag, storage.NumberPart(n))) {
		if err != nil {
			return replaced, moves, err
		}
		if moves++; moves == 1 {
			replaced = e.Value.Moved
		}
		if moves > most {
			break
		}
	}
	return replaced, moves, nil
}
