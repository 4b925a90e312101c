package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
)

const amazon = "https://s3.amazonaws.com"

// connect makes the clients and checks that the bucket is there.
func (b *Blobs) connect(ctx context.Context, o Options) error {
	var err error
	if b.http, err = transport(o); err != nil {
		return err
	}
	creds := o.credentials()
	region := o.Region
	if b.core, err = newCore(o.Endpoint, region, creds, o, &patient{b.http, b.timeout}); err != nil {
		return err
	}
	value, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: b.http, Timeout: b.timeout}, Context: ctx})
	if err != nil || value.AccessKeyID == "" {
		return errors.New("S3: no credentials: none are configured, and there are none in the environment (AWS_ACCESS_KEY_ID), the shared file of credentials, or of this machine")
	}
	if err := b.check(ctx); err != nil {
		return fmt.Errorf("cannot use bucket %s at %s: %w%s", b.bucket, b.core.EndpointURL().Host, err, advice(err))
	}
	if !o.Redirect {
		return nil
	}
	if region == "" { // else the client would ask the other endpoint for it, which need not be reached from here
		err := b.try(ctx, "ask for the region of the bucket", "", func(ctx context.Context) error {
			region, err = b.core.GetBucketLocation(ctx, b.bucket)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: set the region", err)
		}
	}
	endpoint := o.RedirectEndpoint
	setDefault(&endpoint, o.Endpoint)
	b.public, err = newCore(endpoint, region, creds, o, &patient{b.http, b.timeout})
	return err
}

// check looks for what a registry needs of the bucket, but for writing to it: a
// bucket that is full can be read.
func (b *Blobs) check(ctx context.Context) error {
	// Not by HEAD, whose answer says of no error what it is.
	for _, err := range b.list(ctx, b.prefix+"blobs/", "") {
		if err != nil {
			return err
		}
		break
	}
	_, err := b.multipartPage(ctx, b.prefix, "", "")
	return err
}

// advice says what to do about an error of the first requests.
func advice(err error) string {
	var unknown x509.UnknownAuthorityError
	response, _ := errors.AsType[minio.ErrorResponse](err)
	switch {
	case response.Code == minio.NoSuchBucket:
		return ": create it"
	case errors.As(err, &unknown):
		return ": set the CA that has signed the server's certificate"
	case response.Code == minio.AccessDenied:
		return ": allow s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts"
	case response.Code == minio.AuthorizationHeaderMalformed, response.Code == minio.InvalidRegion:
		return ": check the region"
	case response.StatusCode == 0:
		return ": check the endpoint"
	case response.StatusCode < 500: // servers have several codes for it
		return ": check access key and secret key"
	}
	return ""
}

// newCore makes a client of an endpoint. It retries nothing: try does.
func newCore(endpoint, region string, creds *credentials.Credentials, o Options, t http.RoundTripper) (*minio.Core, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("S3: an endpoint must be https://HOST[:PORT] or http://HOST[:PORT]")
	}
	lookup := minio.BucketLookupAuto
	switch {
	case o.PathStyle:
		lookup = minio.BucketLookupPath
	case o.VirtualHost:
		lookup = minio.BucketLookupDNS
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Transport: t, Region: region, BucketLookup: lookup, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("S3: the endpoint: %w", err)
	}
	return core, nil
}

// credentials finds who we are, again when what it found has expired.
func (o *Options) credentials() *credentials.Credentials {
	if o.AccessKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Region: o.Region},
	})
}

func (o *Options) encryption() (encrypt.ServerSide, error) {
	switch {
	case o.KMSKey != "" && o.Encryption != "aws:kms":
		return nil, errors.New(`S3: a KMS key needs the encryption "aws:kms"`)
	case o.Encryption == "":
		return nil, nil //nolint:nilnil // nothing is what minio-go takes for none
	case o.Encryption == "AES256":
		return encrypt.NewSSE(), nil
	case o.Encryption == "aws:kms":
		return encrypt.NewSSEKMS(o.KMSKey, nil)
	}
	return nil, fmt.Errorf(`S3: encryption %q is unknown: want "AES256" or "aws:kms"`, o.Encryption)
}

func transport(o Options) (*http.Transport, error) {
	if o.dial == nil {
		o.dial = (&net.Dialer{Timeout: min(o.Timeout, 10*time.Second), KeepAlive: 30 * time.Second}).DialContext
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           o.dial,
		MaxIdleConns:          512,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   min(o.Timeout, 10*time.Second),
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // blobs are what they are
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, fmt.Errorf("S3: the CA: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("S3: there is no certificate in %s", o.CA)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}
