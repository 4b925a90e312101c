package logs

import (
	"errors"
	"strings"
)

// shortID is the length of an ID as users see it.
const shortID = 12

// expandTag fills in a container's properties in a tag, where it has them in
// double braces: "{{.Name}}/{{.ID}}". Docker's tags are Go templates; of those
// only fields are understood.
func expandTag(tag string, c Container) (string, error) {
	short := func(id string) string {
		id = strings.TrimPrefix(id, "sha256:")
		return id[:min(len(id), shortID)]
	}
	fields := map[string]string{
		".ID":          short(c.ID),
		".FullID":      c.ID,
		".Name":        c.Name,
		".ImageID":     short(c.ImageID),
		".ImageFullID": c.ImageID,
		".ImageName":   c.ImageName,
		".Command":     c.Command,
		".DaemonName":  c.DaemonName,
	}
	var b strings.Builder
	for {
		before, rest, open := strings.Cut(tag, "{{")
		b.WriteString(before)
		if !open {
			return b.String(), nil
		}
		field, after, closed := strings.Cut(rest, "}}")
		value, known := fields[strings.TrimSpace(field)]
		if !closed || !known {
			return "", errors.New("invalid tag: {{" + rest + ": only fields of the container are supported, such as {{.Name}}")
		}
		b.WriteString(value)
		tag = after
	}
}
