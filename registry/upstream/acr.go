package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// acr exchanges a token of Entra ID for a refresh token of one registry (Azure
// Container Registry, "AAD-OAuth": POST /oauth2/exchange), with which tokens are
// had as of any registry.
type acr struct {
	registry        *url.URL
	login, identity string
	now             func() time.Time
	client          *http.Client // for Azure's own services
	own             *http.Client // for the registry
}

const (
	acrResource = "https://containerregistry.azure.net/"
	// acrLife is how long a refresh token is used that does not say; they are
	// given for three hours.
	acrLife = time.Hour
)

func (u *Upstream) newACR(at endpoints) source {
	a := &acr{
		registry: u.base, now: u.o.Now, client: u.plainClient(),
		own:   &http.Client{Transport: &transport{u: u, base: u.pool}, CheckRedirect: noRedirect},
		login: "https://login.microsoftonline.com", identity: "http://169.254.169.254",
	}
	if host := os.Getenv("AZURE_AUTHORITY_HOST"); host != "" { // of another cloud
		a.login = strings.TrimSuffix(host, "/")
	}
	if at.azureLogin != "" {
		a.login = at.azureLogin
	}
	if at.azureIdentity != "" {
		a.identity = at.azureIdentity
	}
	return newFetched(u.o.Now, a.fetch)
}

// fetch gets a token of Entra ID, and exchanges it.
func (a *acr) fetch(ctx context.Context) (auth.Credential, time.Time, error) {
	token, err := a.token(ctx)
	if err != nil {
		return auth.EmptyCredential, time.Time{}, err
	}
	form := url.Values{"grant_type": {"access_token"}, "service": {a.registry.Host}, "access_token": {token}}
	if tenant := os.Getenv("AZURE_TENANT_ID"); tenant != "" {
		form.Set("tenant", tenant)
	}
	var answer struct {
		Refresh string `json:"refresh_token"`
	}
	u := *a.registry
	u.Path = "/oauth2/exchange"
	if err := postForm(ctx, a.own, u.String(), form, &answer); err != nil {
		return auth.EmptyCredential, time.Time{}, fmt.Errorf("the registry's exchange of tokens: %w", err)
	}
	if answer.Refresh == "" {
		return auth.EmptyCredential, time.Time{}, errors.New("the registry's exchange of tokens gave none")
	}
	expires := a.now().Add(acrLife)
	if at, ok := expiryOf(answer.Refresh); ok {
		expires = at
	}
	return auth.Credential{RefreshToken: answer.Refresh}, expires, nil
}

// token is one of Entra ID: of a service principal or a workload's identity, if
// the environment has them, or else of the machine's managed identity.
func (a *acr) token(ctx context.Context) (string, error) {
	tenant, client := os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID")
	secret, file := os.Getenv("AZURE_CLIENT_SECRET"), os.Getenv("AZURE_FEDERATED_TOKEN_FILE")
	var answer struct {
		Token string `json:"access_token"`
	}
	var err error
	if tenant != "" && client != "" && (secret != "" || file != "") {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "scope": {acrResource + ".default"}}
		if secret != "" {
			form.Set("client_secret", secret)
		} else {
			assertion, err := os.ReadFile(file) //nolint:gosec // who sets the environment may
			if err != nil {
				return "", errors.New("the file of AZURE_FEDERATED_TOKEN_FILE cannot be read")
			}
			form.Set("client_assertion", strings.TrimSpace(string(assertion)))
			form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		}
		err = postForm(ctx, a.client, a.login+"/"+url.PathEscape(tenant)+"/oauth2/v2.0/token", form, &answer)
	} else {
		err = a.managed(ctx, client, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("Azure: %w", err) //nolint:staticcheck // a name
	}
	if answer.Token == "" {
		return "", errors.New("Azure gave no token") //nolint:staticcheck // a name
	}
	return answer.Token, nil
}

// managed asks the machine's metadata service for a token of its identity.
func (a *acr) managed(ctx context.Context, client string, answer any) error {
	q := url.Values{"api-version": {"2018-02-01"}, "resource": {acrResource}}
	if client != "" {
		q.Set("client_id", client)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.identity+"/metadata/identity/oauth2/token?"+q.Encode(), nil)
	if err != nil {
		return errors.New("the address of its service is not valid")
	}
	req.Header.Set("Metadata", "true")
	data, err := askJSON(a.client, req)
	if err != nil {
		return fmt.Errorf("no service principal in the environment, and no managed identity: %w", err)
	}
	return decode(data, answer)
}

// expiryOf reads when a JSON web token expires. It need not be believed: it only
// says when to ask again.
func expiryOf(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(data, &claims) != nil || claims.Expires <= 0 || claims.Expires > 1e11 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Expires), 0), true
}
