package classic

import (
	"strconv"
	"strings"
)

// name is what BuildKit calls a step of a Dockerfile: "[maker 2/3] RUN make".
type name struct {
	stage        string // empty if there is only one
	index, total int
	text         string
}

// count is the step's place, as it is shown.
func (n name) count() string { return strconv.Itoa(n.index) + "/" + strconv.Itoa(n.total) }

// parseName reads the name of a vertex. It is ok if it is a step of a Dockerfile.
func parseName(s string) (n name, ok bool) {
	s, ok = strings.CutPrefix(s, "[")
	if !ok {
		return name{}, false
	}
	inside, text, ok := strings.Cut(s, "] ")
	if !ok {
		return name{}, false
	}
	words := strings.Fields(inside)
	if len(words) == 0 {
		return name{}, false
	}
	count := words[len(words)-1]
	index, total, ok := strings.Cut(count, "/")
	if !ok {
		return name{}, false
	}
	n.text = text
	var errs [2]error
	n.index, errs[0] = strconv.Atoi(index)
	n.total, errs[1] = strconv.Atoi(total)
	if errs[0] != nil || errs[1] != nil || n.index < 1 || n.total < n.index {
		return name{}, false
	}
	if words = words[:len(words)-1]; len(words) > 0 {
		// A platform before the stage has a slash, and no stage has.
		if last := words[len(words)-1]; !strings.Contains(last, "/") {
			n.stage = last
		}
	}
	return n, true
}
