package api

import (
	"encoding/json"
	"io"
	"mime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types"

	"github.com/berth-registry/berth/runner"
)

// eventFilters are those of Docker's documentation.
var eventFilters = []string{
	"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume",
}

// events sends a line for each event until the client has enough.
func (x *exchange) events() error {
	since, err := x.moment("since")
	if err != nil {
		return err
	}
	until, err := x.moment("until")
	if err != nil {
		return err
	}
	if !until.IsZero() && until.Before(since) {
		return runner.Errorf(runner.ErrInvalid, "`since` time (%s) cannot be after `until` time (%s)", x.q.Get("since"), x.q.Get("until"))
	}
	filters, err := x.filters()
	if err != nil {
		return err
	}
	if err := filters.Allow(eventFilters...); err != nil {
		return err
	}
	ctx := x.r.Context()
	media := streamType(x.r.Header.Get("Accept"))
	x.w.Header()["Content-Type"] = []string{media}
	seq := x.engine.Events(ctx, since, until, filters)
	x.w.Flush()
	enc := json.NewEncoder(x.w)
	enc.SetEscapeHTML(false)
	for m := range seq {
		line, ok := x.v.event(m)
		if !ok {
			continue
		}
		if media == types.MediaTypeJSONSequence {
			if _, err := io.WriteString(x.w, "\x1e"); err != nil {
				return nil // the client is gone
			}
		}
		if err := enc.Encode(line); err != nil {
			return nil // likewise
		}
		x.w.Flush()
	}
	return nil
}

// streamType chooses how a stream of JSON is sent: as the client likes it best,
// or as application/json, which it is not, but which it was called always.
func streamType(accept string) string {
	best, bestQ := types.MediaTypeJSON, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		switch media {
		case types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence:
		default:
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		if q > bestQ {
			best, bestQ = media, q
		}
	}
	return best
}
