package classic

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Short is an ID as it is shown.
func Short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// id is what stands for the image that a step ends with.
func (o *Output) id(s *step) string {
	if s.kind == from {
		if len(s.parts) == 0 {
			return o.last[s.base]
		}
		if _, d, ok := strings.Cut(s.parts[0].Name, "@sha256:"); ok {
			return Short(d)
		}
	}
	if len(s.parts) > 0 {
		return Short(string(s.parts[len(s.parts)-1].Digest))
	}
	return made("image", o.last[s.stage], s.text)
}

// container stands for the container that a command runs in.
func container(v *vertex) string { return made("container", string(v.Digest)) }

// made makes up an ID.
func made(of ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(of, "\x00")))
	return Short(hex.EncodeToString(sum[:]))
}
