package classic

import (
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
)

// pull tells how far a layer of a base image has come, as a pull does.
func (o *Output) pull(st *client.VertexStatus) {
	id, extracting := strings.CutPrefix(st.ID, "extracting ")
	if digest.Digest(id).Validate() != nil {
		return
	}
	m := jsonstream.Message{ID: Short(id), Status: "Downloading", Progress: &jsonstream.Progress{Current: st.Current, Total: st.Total}}
	switch {
	case extracting && st.Completed != nil:
		m.Status, m.Progress = "Pull complete", nil
	case extracting:
		m.Status, m.Progress = "Extracting", nil
	case st.Completed != nil:
		m.Status, m.Progress = "Download complete", nil
	}
	if said := m.ID + m.Status; m.Progress == nil {
		if o.pulled[said] {
			return
		}
		o.pulled[said] = true
	}
	o.send(m)
}
