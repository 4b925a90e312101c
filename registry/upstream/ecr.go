package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// ecrHost is a private registry of AWS: account, FIPS, region, and the domain of
// the partition.
var ecrHost = regexp.MustCompile(`^\d{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// ecr is the service GetAuthorizationToken of one registry (Amazon ECR API
// Reference, version 2015-09-21; Amazon ECR Public, 2020-10-30).
type ecr struct {
	endpoint, target, service, region string

	keys   *credentials.Credentials
	client *http.Client
}

func (u *Upstream) newECR(at endpoints) (source, error) {
	e, err := ecrOf(u.base.Hostname())
	if err != nil {
		return nil, err
	}
	if at.aws != "" {
		e.endpoint = at.aws
	}
	e.client = u.plainClient()
	e.keys = credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Region: e.region},
	})
	return newFetched(u.o.Now, e.fetch), nil
}

func ecrOf(host string) (*ecr, error) {
	if host == "public.ecr.aws" {
		return &ecr{
			endpoint: "https://api.ecr-public.us-east-1.amazonaws.com/", service: "ecr-public", region: "us-east-1",
			target: "SpencerFrontendService.GetAuthorizationToken",
		}, nil
	}
	m := ecrHost.FindStringSubmatch(host)
	if m == nil {
		return nil, errors.New(`upstream: provider "ecr" is for ACCOUNT.dkr.ecr.REGION.amazonaws.com and public.ecr.aws`)
	}
	fips, region, domain := m[1], m[2], m[3]
	name := "api.ecr."
	if fips != "" {
		name = "ecr-fips."
	}
	if strings.HasSuffix(domain, ".cn") {
		domain = "amazonaws.com.cn"
	} else {
		domain = "amazonaws.com"
	}
	return &ecr{
		endpoint: "https://" + name + region + "." + domain + "/", service: "ecr", region: region,
		target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
	}, nil
}

// fetch asks for a user and a password that hold for twelve hours.
func (e *ecr) fetch(ctx context.Context) (auth.Credential, time.Time, error) {
	none := auth.EmptyCredential
	keys, err := e.keys.GetWithContext(&credentials.CredContext{Client: e.client, Context: ctx})
	if err != nil || keys.AccessKeyID == "" {
		return none, time.Time{}, errors.New("found no keys of AWS in the environment, its files, or a role")
	}
	body := []byte("{}")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.endpoint, bytes.NewReader(body))
	if err != nil {
		return none, time.Time{}, err
	}
	hash := sha256.Sum256(body)
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", e.target)
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(hash[:]))
	req = signer.SignV4WithServiceType(*req, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, e.region, e.service)
	data, err := askJSON(e.client, req)
	if err != nil {
		return none, time.Time{}, fmt.Errorf("AWS: %w", err)
	}
	return ecrAnswer(data)
}

// ecrAnswer reads the answer, in which ECR has a list of what ECR Public has one
// of.
func ecrAnswer(data []byte) (auth.Credential, time.Time, error) {
	type authorization struct {
		Token   string  `json:"authorizationToken"`
		Expires float64 `json:"expiresAt"` // in seconds since 1970
	}
	var answer struct {
		Data json.RawMessage `json:"authorizationData"`
	}
	var many []authorization
	var one authorization
	bad := errors.New("AWS: what it answered is not valid")
	if json.Unmarshal(data, &answer) != nil {
		return auth.EmptyCredential, time.Time{}, bad
	}
	if json.Unmarshal(answer.Data, &many) == nil && len(many) > 0 {
		one = many[0]
	} else if json.Unmarshal(answer.Data, &one) != nil {
		return auth.EmptyCredential, time.Time{}, bad
	}
	pair, err := base64.StdEncoding.DecodeString(one.Token)
	user, password, ok := strings.Cut(string(pair), ":")
	if err != nil || !ok || password == "" || one.Expires <= 0 || one.Expires > 1e11 {
		return auth.EmptyCredential, time.Time{}, bad
	}
	return auth.Credential{Username: user, Password: password}, time.Unix(int64(one.Expires), 0), nil
}
