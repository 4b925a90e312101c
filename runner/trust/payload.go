package trust

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
)

// Annotations of the layer of a payload (sigstore/cosign, specs/SIGNATURE_SPEC.md).
const (
	signatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	logAnnotation         = "dev.sigstore.cosign/bundle"
	timeAnnotation        = "dev.sigstore.cosign/rfc3161timestamp"
)

// payloadAnnotations are those of them that a verification heeds.
func payloadAnnotations(all map[string]string) map[string]string {
	kept := map[string]string{}
	for _, key := range []string{signatureAnnotation, certificateAnnotation, logAnnotation, timeAnnotation} {
		if v := all[key]; v != "" {
			kept[key] = v
		}
	}
	return kept
}

// bundle is a signature of the older form in that of a bundle, as one by a key or as one
// by the certificate that it has.
func (s signed) bundle(byKey bool) (*bundle.Bundle, error) {
	sig, err := base64.StdEncoding.DecodeString(s.Annotations[signatureAnnotation])
	if err != nil || len(sig) == 0 {
		return nil, errors.New("the layer has no signature")
	}
	sum := sha256.Sum256(s.Payload)
	b := &protobundle.Bundle{
		MediaType:            "application/vnd.dev.sigstore.bundle+json;version=0.1",
		VerificationMaterial: &protobundle.VerificationMaterial{},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     sig,
		}},
	}
	m := b.GetVerificationMaterial()
	if text := s.Annotations[certificateAnnotation]; text == "" || byKey {
		m.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}
	} else {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errors.New("the certificate is not in PEM")
		}
		m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
		}}
	}
	if text := s.Annotations[logAnnotation]; text != "" {
		entry, err := logEntry(text)
		if err != nil {
			return nil, fmt.Errorf("the entry of the transparency log: %w", err)
		}
		m.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if text := s.Annotations[timeAnnotation]; text != "" {
		var stamp struct{ SignedRFC3161Timestamp []byte }
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, fmt.Errorf("the timestamp: %w", err)
		}
		m.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp.SignedRFC3161Timestamp}},
		}
	}
	return bundle.NewBundle(b)
}

// logEntry reads what cosign keeps of an entry of a transparency log.
func logEntry(text string) (*protorekor.TransparencyLogEntry, error) {
	var e struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, err
	}
	logID, err := hex.DecodeString(e.Payload.LogID)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Payload.Body, &kind); err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          e.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    e.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: e.SignedEntryTimestamp},
		CanonicalizedBody: e.Payload.Body,
	}, nil
}
