package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/berth-registry/berth/registry"
)

// MaxMoves is how many moves of tags an answer has at most.
const MaxMoves = 1000

type (
	// TagMove says where a tag pointed from a time on.
	TagMove struct {
		Tag     string    `json:"tag"`
		Digest  string    `json:"digest,omitempty"` // none: the tag was deleted
		Moved   time.Time `json:"moved"`
		Account string    `json:"account,omitempty"` // that moved it
		Kept    bool      `json:"kept"`              // whether the manifest is still there

		number int64
	}
	// History is what the tags of a repository have named, the latest first.
	History struct {
		Moves []TagMove `json:"moves"`
		More  bool      `json:"more"` // whether there are earlier ones
	}
)

// history tells the history of tags to who may pull the repository. Others are told
// what they would be told of a repository that is not there.
func (c *call) history() (int, any, error) {
	if c.Content == nil {
		return 0, nil, errNotOffered
	}
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return 0, nil, ErrRequestInvalid.With("invalid query")
	}
	repo, tag, most := query.Get("repository"), query.Get("tag"), MaxMoves
	if limit := query.Get("limit"); limit != "" {
		if most, err = strconv.Atoi(limit); err != nil || most < 1 || most > MaxMoves {
			return 0, nil, ErrRequestInvalid.With("limit: want a number from 1 to %d", MaxMoves)
		}
	}
	if !registry.ValidRepository(repo) || tag != "" && !registry.ValidTag(tag) {
		return 0, nil, ErrRequestInvalid.With("want the query repository=NAME, and perhaps tag=NAME and limit=N")
	}
	switch {
	case c.mayPull(repo):
	case c.who.id.IsAnonymous():
		return 0, nil, registry.ErrUnauthorized.With("sign in first, with the password of an account")
	default:
		return 0, nil, unknownHistory(repo)
	}
	h, err := c.latestMoves(repo, tag, most)
	if err == nil && len(h.Moves) == 0 {
		err = unknownHistory(repo)
	}
	return http.StatusOK, h, err
}

func unknownHistory(repo string) error {
	return registry.ErrNameUnknown.With("repository %s has no history of such a tag", repo)
}

// latestMoves finds the latest moves, in no more memory than twice as many need.
func (c *call) latestMoves(repo, tag string, most int) (h History, err error) {
	h.Moves = []TagMove{}
	latest := func() {
		slices.SortFunc(h.Moves, func(a, b TagMove) int { return cmp.Compare(b.number, a.number) })
		if len(h.Moves) > most {
			h.Moves, h.More = h.Moves[:most], true
		}
	}
	for m, err := range c.Content.History(c.r.Context(), repo, tag) {
		if err != nil {
			return h, err
		}
		h.Moves = append(h.Moves, TagMove{Tag: m.Tag, Digest: string(m.Digest), Moved: m.Moved.UTC(), Account: m.By, Kept: m.Kept, number: m.Number})
		if len(h.Moves) == 2*most {
			latest()
		}
	}
	latest()
	return h, nil
}
