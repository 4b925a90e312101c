module github.com/berth-registry/berth

go 1.26

require (
	github.com/fxamacker/cbor/v2 v2.10.0
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
)

require github.com/x448/float16 v0.8.4 // indirect
