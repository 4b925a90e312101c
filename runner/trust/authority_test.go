package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
)

// authority is a Sigstore of the test's own: who makes certificates, who says what the
// time is, and a transparency log.
type authority struct {
	tb           testing.TB
	ca           *x509.Certificate
	caKey        *ecdsa.PrivateKey
	tsaLeaf      *x509.Certificate
	tsaKey, log  *ecdsa.PrivateKey
	certificates *ecdsa.PrivateKey // signs for the log of certificates, which has none
}

// must returns v, or ends the test.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func newECDSA(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	return must[*ecdsa.PrivateKey](tb)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb, caKey: newECDSA(tb), tsaKey: newECDSA(tb), log: newECDSA(tb), certificates: newECDSA(tb)}
	ca := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "ca", Organization: []string{"acme"}},
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	a.ca = a.certificate(ca, ca, a.caKey.Public(), a.caKey)
	usage := must[[]byte](tb)(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))
	a.tsaLeaf = a.certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "tsa", Organization: []string{"acme"}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, a.ca, a.tsaKey.Public(), a.caKey)
	return a
}

// certificate makes a certificate that is valid now.
func (a *authority) certificate(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	a.tb.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	return must[*x509.Certificate](a.tb)(x509.ParseCertificate(must[[]byte](a.tb)(x509.CreateCertificate(rand.Reader, template, parent, public, key))))
}

// identity is a certificate for someone as an issuer vouches for them, and its key.
func (a *authority) identity(who, by string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.tb.Helper()
	key := newECDSA(a.tb)
	return a.certificate(&x509.Certificate{
		EmailAddresses: []string{who}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(by)}},
	}, a.ca, key.Public(), a.caKey), key
}

// root writes the trusted root of the authority, with some of its parts: ct, time and
// log.
func (a *authority) root(parts ...string) string {
	a.tb.Helper()
	start, end := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	log := func(key *ecdsa.PrivateKey) map[string]*root.TransparencyLog {
		id := a.logID(key)
		return map[string]*root.TransparencyLog{hex.EncodeToString(id): {
			BaseURL: "https://log.example.com", ID: id, ValidityPeriodStart: start, ValidityPeriodEnd: end,
			HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, PublicKey: key.Public(),
		}}
	}
	cas := []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: a.ca, ValidityPeriodStart: start, ValidityPeriodEnd: end, URI: "https://ca.example.com"}}
	var tsas []root.TimestampingAuthority
	ct, logs := map[string]*root.TransparencyLog{}, map[string]*root.TransparencyLog{}
	if slices.Contains(parts, "ct") {
		ct = log(a.certificates)
	}
	if slices.Contains(parts, "log") {
		logs = log(a.log)
	}
	if slices.Contains(parts, "time") {
		tsas = append(tsas, &root.SigstoreTimestampingAuthority{Root: a.ca, Leaf: a.tsaLeaf, ValidityPeriodStart: start, ValidityPeriodEnd: end, URI: "https://tsa.example.com"})
	}
	trusted := must[*root.TrustedRoot](a.tb)(root.NewTrustedRoot(root.TrustedRootMediaType01, cas, ct, tsas, logs))
	path := filepath.Join(a.tb.TempDir(), "root.json")
	if err := os.WriteFile(path, must[[]byte](a.tb)(trusted.MarshalJSON()), 0o600); err != nil {
		a.tb.Fatal(err)
	}
	return path
}

// logID is the identity of a log: the hash of its key.
func (a *authority) logID(key *ecdsa.PrivateKey) []byte {
	a.tb.Helper()
	sum := sha256.Sum256(must[[]byte](a.tb)(x509.MarshalPKIXPublicKey(key.Public())))
	return sum[:]
}

// sign signs a message.
func (a *authority) sign(key *ecdsa.PrivateKey, message []byte) []byte {
	a.tb.Helper()
	sum := sha256.Sum256(message)
	return must[[]byte](a.tb)(ecdsa.SignASN1(rand.Reader, key, sum[:]))
}

// entry is an entry of the log, with the log's promise that it is in it.
func (a *authority) entry(kind string, spec map[string]any) *protorekor.TransparencyLogEntry {
	a.tb.Helper()
	body := must[[]byte](a.tb)(json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": kind, "spec": spec}))
	now, id := time.Now().Unix(), a.logID(a.log)
	promise := fmt.Appendf(nil, `{"body":%q,"integratedTime":%d,"logID":%q,"logIndex":0}`, base64.StdEncoding.EncodeToString(body), now, hex.EncodeToString(id))
	return &protorekor.TransparencyLogEntry{
		LogId: &protocommon.LogId{KeyId: id}, KindVersion: &protorekor.KindVersion{Kind: kind, Version: "0.0.1"}, IntegratedTime: now,
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: a.sign(a.log, promise)}, CanonicalizedBody: body,
	}
}

// stamp says that a signature is there now.
func (a *authority) stamp(sig []byte) []byte {
	a.tb.Helper()
	asked := must[*timestamp.Request](a.tb)(timestamp.ParseRequest(must[[]byte](a.tb)(timestamp.CreateRequest(bytes.NewReader(sig), &timestamp.RequestOptions{Hash: crypto.SHA256}))))
	said := timestamp.Timestamp{
		HashAlgorithm: asked.HashAlgorithm, HashedMessage: asked.HashedMessage, Time: time.Now(),
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, ExtraExtensions: asked.Extensions,
	}
	return must[[]byte](a.tb)(said.CreateResponseWithOpts(a.tsaLeaf, a.tsaKey, crypto.SHA256))
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// statement is what cosign signs of a digest.
func statement(d digest.Digest, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, d.Encoded(), predicate)
}

// bundle is a bundle of a statement by someone. What is observed is log, time or
// neither.
func (a *authority) bundle(who, by string, statement []byte, observed string) []byte {
	a.tb.Helper()
	const payloadType = "application/vnd.in-toto+json"
	cert, key := a.identity(who, by)
	sig := a.sign(key, dsse.PAE(payloadType, statement))
	raw := &protocommon.X509Certificate{RawBytes: cert.Raw}
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: raw},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: payloadType, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}
	m := b.GetVerificationMaterial()
	switch observed {
	case "time":
		m.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: a.stamp(sig)}}}
	case "log":
		b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1" // which takes a promise
		m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{raw}}}
		envelope := must[[]byte](a.tb)(json.Marshal(dsse.Envelope{
			PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(statement), Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
		}))
		m.TlogEntries = []*protorekor.TransparencyLogEntry{a.entry("dsse", map[string]any{
			"envelopeHash": hashOf(envelope), "payloadHash": hashOf(statement),
			"signatures": []map[string]any{{"signature": base64.StdEncoding.EncodeToString(sig), "verifier": pemOf(cert)}},
		})}
	}
	return must[[]byte](a.tb)(protojson.Marshal(b))
}

func hashOf(data []byte) map[string]any {
	return map[string]any{"algorithm": "sha256", "value": digest.FromBytes(data).Encoded()}
}

// simplePayload is what is signed in the older form.
func simplePayload(name string, d digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, d)
}

// simple are the annotations of a signature in the older form.
func (a *authority) simple(who, by string, payload []byte) map[string]string {
	a.tb.Helper()
	cert, key := a.identity(who, by)
	sig := a.sign(key, payload)
	entry := a.entry("hashedrekord", map[string]any{
		"data":      map[string]any{"hash": hashOf(payload)},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": pemOf(cert)}},
	})
	log := must[[]byte](a.tb)(json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{
			"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(), "logIndex": 0, "logID": hex.EncodeToString(a.logID(a.log)),
		},
	}))
	stamp := must[[]byte](a.tb)(json.Marshal(map[string]any{"SignedRFC3161Timestamp": a.stamp(sig)}))
	return map[string]string{
		signatureAnnotation: base64.StdEncoding.EncodeToString(sig), certificateAnnotation: string(pemOf(cert)),
		logAnnotation: string(log), timeAnnotation: string(stamp),
	}
}
