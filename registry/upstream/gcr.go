package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// newGCR returns the source for Google's Artifact Registry and Container
// Registry: an access token of the application default credentials, which they
// take as a password.
func (u *Upstream) newGCR() source {
	client := u.plainClient()
	return newFetched(u.o.Now, func(ctx context.Context) (auth.Credential, time.Time, error) {
		token, err := googleToken(ctx, client)
		if err != nil {
			return auth.EmptyCredential, time.Time{}, err
		}
		expires := token.Expiry
		if expires.IsZero() {
			expires = u.o.Now().Add(helperLife)
		}
		return auth.Credential{Username: "oauth2accesstoken", Password: token.AccessToken}, expires, nil
	})
}

// googleToken fetches a token. What the library says of a failure may quote a
// key's file, and is not repeated.
func googleToken(ctx context.Context, client *http.Client) (*oauth2.Token, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	found, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return nil, errors.New("found no application default credentials of Google, or none that are valid")
	}
	token, err := found.TokenSource.Token()
	if err != nil || token.AccessToken == "" {
		return nil, errors.New("Google gave no token for the application default credentials") //nolint:staticcheck // a name
	}
	return token, nil
}
