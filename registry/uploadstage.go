package registry

import "github.com/opencontainers/go-digest"

// SessionOfStage tells of a stage whether it has the bytes of an upload session: then
// row is the key of the session in storage.Uploads, and alg what its hash is of.
func SessionOfStage(stage string) (row []byte, alg digest.Algorithm, ok bool) {
	row, ok = uploadRowOf(stage)
	if !ok || int(row[len(row)-1]) >= len(uploadAlgorithms) {
		return nil, "", false
	}
	return row, uploadAlgorithms[row[len(row)-1]], true
}
