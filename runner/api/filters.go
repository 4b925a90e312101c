package api

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/berth-registry/berth/runner"
)

// filters reads the filters of the query.
func (x *exchange) filters() (runner.Filters, error) {
	return parseFilters(x.q.Get("filters"))
}

// parseFilters reads filters, either of the two forms that clients send:
// {"label":{"a=b":true}}, or {"label":["a=b"]} of old ones. It is a pure function.
func parseFilters(s string) (runner.Filters, error) {
	if s == "" {
		return nil, nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &raw); err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid filter: %w", err)
	}
	f := make(runner.Filters, len(raw))
	for key, values := range raw {
		var set map[string]bool
		var list []string
		if err := json.Unmarshal(values, &set); err == nil {
			list = slices.Sorted(maps.Keys(set))
		} else if err := json.Unmarshal(values, &list); err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter: %w", err)
		}
		if len(list) > 0 {
			f[key] = list
		}
	}
	return f, nil
}
