package upstream

import (
	"context"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxTokens is how many tokens are kept. There is one for each repository.
const maxTokens = 2048

// tokenCache is a cache of tokens that does not grow for good.
type tokenCache struct {
	mu    sync.Mutex
	cache auth.Cache
	count int // how many tokens were fetched for it
}

func newTokenCache() *tokenCache { return &tokenCache{cache: auth.NewCache()} }

func (c *tokenCache) current() auth.Cache {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cache
}

// GetScheme implements auth.Cache.
func (c *tokenCache) GetScheme(ctx context.Context, registry string) (auth.Scheme, error) {
	return c.current().GetScheme(ctx, registry)
}

// GetToken implements auth.Cache.
func (c *tokenCache) GetToken(ctx context.Context, registry string, scheme auth.Scheme, key string) (string, error) {
	return c.current().GetToken(ctx, registry, scheme, key)
}

// Set implements auth.Cache. Requests that need the same token at once fetch it
// once; if the one that fetches it is given up, another goes on.
func (c *tokenCache) Set(ctx context.Context, registry string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	return c.current().Set(ctx, registry, scheme, key, func(ctx context.Context) (string, error) {
		token, err := fetch(ctx)
		if err == nil {
			c.grew()
		} else if ctx.Err() != nil {
			err = ctx.Err() // as it is: auth.Cache does not look for it in other errors
		}
		return token, err
	})
}

// reset drops what is kept.
func (c *tokenCache) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache, c.count = auth.NewCache(), 0
}

func (c *tokenCache) grew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count++; c.count > maxTokens {
		c.cache, c.count = auth.NewCache(), 0
	}
}

func isBasic(authorization string) bool {
	return len(authorization) >= 6 && strings.EqualFold(authorization[:6], "basic ")
}
